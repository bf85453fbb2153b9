// spin: every vCPU counts as fast as it can, for seconds=N (10; 0: for ever), and reports each
// report=N seconds (1) how far it got, how much time KVM says was stolen from it, and how much the
// hypervisor says it withheld. With sleep_us=N it sleeps for N us after each work=M thousand counts
// (500), and reports how late it woke up.
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/format.h"
#include "guest/lib/histogram.h"
#include "guest/lib/kvm.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/lib/withheld.h"
#include "guest/tests/test.h"

struct spin {
    uint64_t loops;
    uint64_t ns;
    uint64_t steal_ns;
    struct histogram late; // wake-ups
};

static bool has_page;

enum { LOOPS_A_LOOK = 10000 }; // between two looks at the clock

static void spin_some(void)
{
    for (unsigned i = 0; i < LOOPS_A_LOOK; i++)
        __asm__ volatile("");
}

static void report(const struct spin *spin, bool has_steal, uint64_t withheld)
{
    char steal[24] = "none", kept[24] = "none";
    if (has_steal)
        format_text(steal, sizeof(steal), "%lu", spin->steal_ns / 1000000);
    if (has_page)
        format_text(kept, sizeof(kept), "%lu", (withheld_ns() - withheld) / 1000000);
    console_line("spin cpu=%u loops=%lu ms=%lu steal_ms=%s withheld_ms=%s", this_cpu()->index,
                 spin->loops, spin->ns / 1000000, steal, kept);
    if (spin->late.count)
        console_line("spin cpu=%u wakes=%lu late_p50_us=%lu late_p99_us=%lu late_max_us=%lu",
                     this_cpu()->index, spin->late.count,
                     histogram_percentile(&spin->late, 500) / 1000,
                     histogram_percentile(&spin->late, 990) / 1000, spin->late.longest / 1000);
}

// Sleeps, and notes by how much it woke up too late.
static void nap(struct spin *spin, uint64_t ticks)
{
    uint64_t end = time_tsc() + ticks;
    while (time_sleep_until(end) < end)
        ;
    histogram_add(&spin->late, time_tsc_to_ns(time_tsc() - end));
}

static void spin_job(void *argument)
{
    struct spin *spin = argument;
    uint64_t seconds = option_number("seconds", 10);
    uint64_t interval = time_ns_to_tsc(option_number("report", 1) * 1000000000);
    bool has_steal = kvm_steal_start();
    uint64_t steal = kvm_steal_ns(), withheld = withheld_ns();
    uint64_t start = time_tsc(), end = start + time_ns_to_tsc(seconds * 1000000000);
    uint64_t next = start + interval;
    uint64_t sleep = time_ns_to_tsc(option_number("sleep_us", 0) * 1000);
    uint64_t work = option_number("work", 500) * 1000, worked = 0;
    for (;;) {
        spin_some();
        spin->loops += LOOPS_A_LOOK;
        worked += LOOPS_A_LOOK;
        if (sleep && worked >= work) {
            nap(spin, sleep);
            worked = 0;
        }
        uint64_t now = time_tsc();
        bool last = seconds && now >= end;
        if (now < next && !last)
            continue;
        next += interval ? interval : ~0ul >> 1;
        spin->ns = time_tsc_to_ns(now - start);
        spin->steal_ns = kvm_steal_ns() - steal;
        report(spin, has_steal, withheld);
        if (last)
            return;
    }
}

bool test_spin(void)
{
    static struct spin spins[CPU_MAX];
    unsigned cpus = cpu_start_all();
    has_page = withheld_start();
    time_tsc_hz(); // found once, before the workers ask for it
    cpu_run(cpus, spin_job, spins, sizeof(spins[0]));
    uint64_t loops = 0;
    for (unsigned i = 0; i < cpus; i++)
        loops += spins[i].loops;
    test_summary("cpus=%u loops=%lu", cpus, loops);
    return loops > 0;
}
