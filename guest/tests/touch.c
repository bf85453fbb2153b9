// touch: what it costs to write a byte to each page of size= bytes: the first time, and then
// passes= times (5; 0: until the machine ends, one line each report= seconds).
#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/range.h"
#include "guest/tests/test.h"

// Returns ns.
static uint64_t touch(const struct range *range, uint8_t value)
{
    uint64_t start = time_tsc();
    for (uint64_t i = 0; i < range->pages; i++)
        *(volatile uint8_t *)(range->start + i * PAGE_BYTES) = value;
    return time_tsc_to_ns(time_tsc() - start);
}

static uint64_t us_per_gib(const struct range *range, uint64_t ns)
{
    return multiply_divide(ns, 262144, range->pages) / 1000;
}

static void touch_for_ever(const struct range *range)
{
    uint64_t interval = option_number("report", 1) * 1000000000;
    uint64_t pass = 0, since = time_now_ns(), slowest = 0, sum = 0, count = 0;
    for (;;) {
        uint64_t ns = touch(range, (uint8_t)++pass);
        slowest = ns > slowest ? ns : slowest;
        sum += ns;
        count++;
        if (time_now_ns() - since < interval)
            continue;
        console_line("touch pass=%lu mean_us_per_gib=%lu slowest_us_per_gib=%lu", pass,
                     us_per_gib(range, sum / count), us_per_gib(range, slowest));
        since = time_now_ns();
        sum = count = slowest = 0;
    }
}

bool test_touch(void)
{
    struct range range;
    cpu_start_all();
    if (!range_take(&range, 1ul << 30))
        return false;
    uint64_t passes = option_number("passes", 5);
    uint64_t first = touch(&range, 1), best = ~0ul;
    console_line("touch gpa=0x%lx pages=%lu", range.start, range.pages);
    console_line("touch pass=first us=%lu us_per_gib=%lu", first / 1000, us_per_gib(&range, first));
    if (!passes)
        touch_for_ever(&range);
    for (uint64_t pass = 1; pass <= passes; pass++) {
        uint64_t ns = touch(&range, (uint8_t)pass);
        best = ns < best ? ns : best;
        console_line("touch pass=%lu us=%lu us_per_gib=%lu", pass, ns / 1000,
                     us_per_gib(&range, ns));
    }
    test_summary("first_us_per_gib=%lu best_us_per_gib=%lu", us_per_gib(&range, first),
                 us_per_gib(&range, best));
    return true;
}
