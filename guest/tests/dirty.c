// dirty: writes to memory at a rate, to load a migration: rate= MB/s (10^6 bytes; 0: no limit),
// size= working set, order=sequential or random, bytes= written in each page (8), report= seconds
// between lines. writers=N: only so many vCPUs write (all), the others count.
#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pace.h"
#include "guest/lib/time.h"
#include "guest/tests/range.h"
#include "guest/tests/test.h"

struct writer {
    struct range part;
    uint64_t rate, bytes_a_page, end;
    bool random;
    volatile uint64_t pages;
};

static struct writer writers[CPU_MAX];
static unsigned writer_count;

static void page_write(uint64_t address, uint64_t bytes, uint64_t value)
{
    volatile uint64_t *words = (volatile uint64_t *)address;
    for (uint64_t i = 0; i < bytes / 8; i++)
        words[i] = value + i;
}

static void writers_report(uint64_t *last_pages, uint64_t *last, uint64_t now, uint64_t start)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < writer_count; i++)
        pages += writers[i].pages;
    uint64_t us = time_tsc_to_ns(now - *last) / 1000;
    uint64_t rate = multiply_divide(pages - *last_pages, PAGE_BYTES, us ? us : 1);
    console_line("dirty ms=%lu pages=%lu mb_per_s=%lu", time_tsc_to_ns(now - start) / 1000000,
                 pages, rate);
    *last_pages = pages;
    *last = now;
}

static void counter_job(const struct writer *counter)
{
    volatile uint64_t count = 0;
    while (!counter->end || time_tsc() < counter->end)
        count++;
}

static void writer_job(void *argument)
{
    struct writer *writer = argument;
    if (this_cpu()->index >= writer_count) {
        counter_job(writer);
        return;
    }
    bool reports = this_cpu()->index == 0;
    uint64_t interval = time_ns_to_tsc(option_number("report", 1) * 1000000000);
    uint64_t start = time_tsc(), last = start, last_pages = 0;
    uint64_t at = 0, state = 0x9e3779b97f4a7c15ul + this_cpu()->index;
    struct pace pace;
    pace_start(&pace, writer->rate);
    uint64_t slice = pace_slice(&pace, PAGE_BYTES) / PAGE_BYTES;
    for (uint64_t now = start; !writer->end || now < writer->end; now = time_tsc()) {
        for (uint64_t i = 0; i < slice; i++) {
            if (writer->random) {
                state = state * 6364136223846793005ul + 1442695040888963407ul;
                at = multiply_divide(state, writer->part.pages, ~0ul);
            } else if (++at >= writer->part.pages) {
                at = 0;
            }
            page_write(writer->part.start + at * PAGE_BYTES, writer->bytes_a_page, now);
        }
        writer->pages += slice;
        pace_wait(&pace, slice * PAGE_BYTES);
        if (reports && interval && now - last >= interval)
            writers_report(&last_pages, &last, now, start);
    }
}

bool test_dirty(void)
{
    unsigned cpus = cpu_start_all();
    struct range range;
    writer_count = (unsigned)option_number("writers", cpus);
    if (!writer_count || writer_count > cpus || !range_take(&range, 64ul << 20) ||
        range.pages < writer_count)
        return false;
    uint64_t seconds = option_number("seconds", 10), bytes = option_number("bytes", 8);
    uint64_t start = time_tsc();
    uint64_t end = seconds ? start + time_ns_to_tsc(seconds * 1000000000) : 0;
    for (unsigned i = 0; i < cpus; i++)
        writers[i] = (struct writer){
            .part = range_part(&range, i < writer_count ? i : 0, writer_count),
            .rate = option_number("rate", 0) * 1000000 / writer_count,
            .bytes_a_page = bytes < 8            ? 8
                            : bytes > PAGE_BYTES ? PAGE_BYTES
                                                 : bytes,
            .end = end,
            .random = option_is("order", "random"),
        };
    console_line("dirty ready gpa=0x%lx pages=%lu cpus=%u", range.start, range.pages, cpus);
    cpu_run(cpus, writer_job, writers, sizeof(writers[0]));
    uint64_t pages = 0, us = time_tsc_to_ns(time_tsc() - start) / 1000;
    for (unsigned i = 0; i < cpus; i++)
        pages += writers[i].pages;
    test_summary("cpus=%u pages=%lu mb_per_s=%lu", cpus, pages,
                 multiply_divide(pages, PAGE_BYTES, us));
    return true;
}
