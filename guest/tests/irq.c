// irq: what interrupts cost. mode=self: IPIs to oneself, one after another; mode=ipi: ping-pong
// between vCPU 0 and 1, both asleep in between; mode=timer: how late a one-shot timer wakes a
// sleeper. seconds= (2) for each; all modes by default.
#include "guest/drivers/lapic.h"
#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    VECTOR_SELF = VECTOR_FIRST_FREE,
    VECTOR_PING,
    VECTOR_PONG,
    TIMER_NS = 500000,
};

struct sample {
    uint64_t count, sum, longest, shortest; // TSC ticks
};

static void sample_add(struct sample *sample, uint64_t ticks)
{
    if (!sample->count || ticks < sample->shortest)
        sample->shortest = ticks;
    if (ticks > sample->longest)
        sample->longest = ticks;
    sample->sum += ticks;
    sample->count++;
}

static void sample_report(const char *mode, const struct sample *sample, uint64_t ns)
{
    uint64_t count = sample->count ? sample->count : 1;
    console_line("irq mode=%s count=%lu per_s=%lu mean_ns=%lu min_ns=%lu max_ns=%lu", mode,
                 sample->count, multiply_divide(sample->count, 1000000000, ns),
                 time_tsc_to_ns(sample->sum / count), time_tsc_to_ns(sample->shortest),
                 time_tsc_to_ns(sample->longest));
}

// Sleeps until a vector's count passes `before`, at most two seconds.
static bool wait_for(uint8_t vector, uint64_t before)
{
    struct cpu *cpu = this_cpu();
    uint64_t limit = time_tsc() + 2 * time_tsc_hz();
    while (cpu->irq_count[vector] == before) {
        uint64_t seen = cpu->irq_total;
        if (cpu->irq_count[vector] != before)
            break;
        if (time_tsc() > limit)
            return false;
        cpu_sleep(seen);
    }
    return true;
}

static bool irq_self(struct sample *sample, uint64_t end)
{
    struct cpu *cpu = this_cpu();
    while (time_tsc() < end) {
        uint64_t before = cpu->irq_count[VECTOR_SELF], start = time_tsc();
        lapic_send(cpu->apic_id, VECTOR_SELF);
        while (cpu->irq_count[VECTOR_SELF] == before)
            if (time_tsc() - start > time_tsc_hz())
                return false;
        sample_add(sample, time_tsc() - start);
    }
    return true;
}

static volatile bool ping_over;

static void ping_answer(void *argument)
{
    (void)argument;
    uint64_t seen = this_cpu()->irq_count[VECTOR_PING];
    while (!ping_over) {
        uint64_t total = this_cpu()->irq_total;
        if (this_cpu()->irq_count[VECTOR_PING] == seen) {
            if (!ping_over)
                cpu_sleep(total);
            continue;
        }
        seen++;
        lapic_send(cpu_get(0)->apic_id, VECTOR_PONG);
    }
}

static bool ping_all(struct sample *sample, uint64_t end)
{
    uint32_t other = cpu_get(1)->apic_id;
    while (time_tsc() < end) {
        uint64_t before = this_cpu()->irq_count[VECTOR_PONG], start = time_tsc();
        lapic_send(other, VECTOR_PING);
        if (!wait_for(VECTOR_PONG, before))
            return false;
        sample_add(sample, time_tsc() - start);
    }
    return true;
}

struct ping {
    struct sample *sample;
    uint64_t end;
    bool passed;
};

static void ping_job(void *argument)
{
    if (this_cpu()->index == 1) {
        ping_answer(argument);
        return;
    }
    struct ping *ping = argument;
    // The other one must have begun to count; its answer to a first ping shows that.
    time_sleep_ns(10000000);
    ping->passed = ping_all(ping->sample, ping->end);
    ping_over = true;
    cpu_wake(cpu_get(1));
}

static bool irq_ipi(struct sample *sample, uint64_t end)
{
    struct ping pings[2] = {{.sample = sample, .end = end}};
    cpu_run(2, ping_job, pings, sizeof(pings[0]));
    return pings[0].passed;
}

static bool irq_timer(struct sample *sample, uint64_t end)
{
    struct cpu *cpu = this_cpu();
    while (time_tsc() < end) {
        uint64_t before = cpu->irq_count[VECTOR_TIMER];
        uint64_t due = time_tsc() + time_ns_to_tsc(TIMER_NS);
        lapic_timer_after_ns(TIMER_NS);
        if (!wait_for(VECTOR_TIMER, before))
            return false;
        uint64_t now = time_tsc();
        sample_add(sample, now > due ? now - due : 0);
    }
    return true;
}

static bool irq_mode(const char *mode, bool (*run)(struct sample *sample, uint64_t end))
{
    const char *wanted = option_string("mode", "all");
    if (strcmp(wanted, "all") && strcmp(wanted, mode))
        return true;
    struct sample sample = {0};
    uint64_t start = time_tsc();
    bool passed = run(&sample, start + time_ns_to_tsc(option_number("seconds", 2) * 1000000000));
    sample_report(mode, &sample, time_tsc_to_ns(time_tsc() - start));
    return passed && sample.count;
}

bool test_irq(void)
{
    unsigned cpus = cpu_start_all();
    time_tsc_hz();
    bool passed = irq_mode("self", irq_self);
    passed &= irq_mode("timer", irq_timer);
    if (cpus > 1)
        passed &= irq_mode("ipi", irq_ipi);
    test_summary("cpus=%u apic=%s", cpus, lapic_x2apic() ? "x2apic" : "xapic");
    return passed;
}
