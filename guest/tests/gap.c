// gap: each vCPU looks at its clocks without a pause: the longest time between two looks is the
// longest time it didn't run. Also whether the TSC or kvmclock ever went backwards, on one vCPU or
// from one to another. seconds= (10; 0: for ever), report= seconds between lines (1).
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/kvm.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

struct watch {
    uint64_t end; // TSC, 0: never
    volatile uint64_t looks;
    volatile uint64_t longest, longest_at; // TSC ticks; when, from the start
    volatile uint64_t longest_recent;      // since the last report, which clears it
    volatile uint64_t clock_longest;       // ns of kvmclock
    volatile uint64_t
        print_longest; // over the reporter's own printing, which would hide a short gap
    volatile uint64_t backwards, backwards_across, clock_backwards;
    bool has_clock;
};

static struct watch watches[CPU_MAX];
static unsigned watch_count;
static uint64_t latest; // the highest TSC that any vCPU has seen

static void watch_report(uint64_t elapsed)
{
    for (unsigned i = 0; i < watch_count; i++) {
        struct watch *watch = &watches[i];
        uint64_t recent = watch->longest_recent;
        watch->longest_recent = 0;
        console_line("gap cpu=%u ms=%lu recent_us=%lu max_us=%lu max_at_ms=%lu kvmclock_max_us=%lu "
                     "print_max_us=%lu backwards=%lu across=%lu kvmclock_backwards=%lu",
                     i, time_tsc_to_ns(elapsed) / 1000000, time_tsc_to_ns(recent) / 1000,
                     time_tsc_to_ns(watch->longest) / 1000,
                     time_tsc_to_ns(watch->longest_at) / 1000000, watch->clock_longest / 1000,
                     time_tsc_to_ns(watch->print_longest) / 1000, watch->backwards,
                     watch->backwards_across, watch->clock_backwards);
    }
}

// What another vCPU published before this one looked can't be later than what it sees now.
static void watch_across(struct watch *watch)
{
    uint64_t seen = __atomic_load_n(&latest, __ATOMIC_ACQUIRE);
    uint64_t now = time_tsc_ordered();
    if (now < seen)
        watch->backwards_across++;
    else
        __atomic_compare_exchange_n(&latest, &seen, now, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static void watch_tsc(struct watch *watch, uint64_t last, uint64_t now, uint64_t start)
{
    if (now < last) {
        watch->backwards++;
        return;
    }
    uint64_t gap = now - last;
    if (gap > watch->longest_recent)
        watch->longest_recent = gap;
    if (gap > watch->longest) {
        watch->longest = gap;
        watch->longest_at = now - start;
    }
}

static void watch_clock(struct watch *watch, uint64_t *last)
{
    uint64_t now = kvm_clock_ns();
    if (now < *last)
        watch->clock_backwards++;
    else if (*last && now - *last > watch->clock_longest)
        watch->clock_longest = now - *last;
    *last = now;
}

static void watch_job(void *argument)
{
    struct watch *watch = argument;
    bool reports = this_cpu()->index == 0;
    uint64_t interval = time_ns_to_tsc(option_number("report", 1) * 1000000000);
    watch->has_clock = kvm_clock_start();
    uint64_t clock = 0;
    uint64_t start = time_tsc_ordered(), last = start, reported = start;
    while (!watch->end || last < watch->end) {
        uint64_t now = time_tsc_ordered();
        watch_tsc(watch, last, now, start);
        last = now;
        watch->looks++;
        watch_across(watch);
        if (watch->has_clock)
            watch_clock(watch, &clock);
        if (!reports || !interval || now - reported < interval)
            continue;
        reported = now;
        watch_report(now - start);
        last = time_tsc_ordered();
        if (last - now > watch->print_longest)
            watch->print_longest = last - now;
        clock = 0;
    }
}

bool test_gap(void)
{
    unsigned cpus = cpu_start_all();
    uint64_t seconds = option_number("seconds", 10);
    watch_count = cpus;
    uint64_t start = time_tsc();
    for (unsigned i = 0; i < cpus; i++)
        watches[i].end = seconds ? start + time_ns_to_tsc(seconds * 1000000000) : 0;
    console_line("gap ready cpus=%u tsc_hz=%lu tsc_source=%s", cpus, time_tsc_hz(),
                 time_tsc_source());
    cpu_run(cpus, watch_job, watches, sizeof(watches[0]));
    watch_report(time_tsc() - start);

    uint64_t longest = 0, backwards = 0, looks = 0;
    for (unsigned i = 0; i < cpus; i++) {
        longest = watches[i].longest > longest ? watches[i].longest : longest;
        looks += watches[i].looks;
        backwards +=
            watches[i].backwards + watches[i].backwards_across + watches[i].clock_backwards;
    }
    test_summary("cpus=%u looks=%lu max_us=%lu kvmclock=%u backwards=%lu", cpus, looks,
                 time_tsc_to_ns(longest) / 1000, watches[0].has_clock, backwards);
    return backwards == 0;
}
