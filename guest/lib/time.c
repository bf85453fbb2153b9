#include "guest/lib/time.h"

#include "guest/drivers/acpi.h"
#include "guest/drivers/lapic.h"
#include "guest/lib/arithmetic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/kvm.h"
#include "guest/lib/ports.h"
#include "guest/lib/privileged.h"

enum {
    PM_TIMER_HZ = 3579545,
    PIT_HZ = 1193182,
    CALIBRATION_MS = 20,
};

static uint64_t hz;
static const char *source = "none";

static bool found(uint64_t value, const char *how)
{
    if (value < 1000000)
        return false;
    hz = value;
    source = how;
    return true;
}

// CPUID 0x15: crystal frequency times ratio.
static uint64_t hz_from_cpuid(void)
{
    if (cpuid_read(0, 0).eax < 0x15)
        return 0;
    struct cpuid_registers crystal = cpuid_read(0x15, 0);
    return crystal.eax ? (uint64_t)crystal.ecx * crystal.ebx / crystal.eax : 0;
}

// Counts TSC ticks while the ACPI PM timer, 24 bits wide at least, goes on by CALIBRATION_MS.
static uint64_t hz_from_pm_timer(void)
{
    uint16_t port = acpi_pm_timer();
    if (!port)
        return 0;
    const uint32_t wanted = PM_TIMER_HZ / 1000 * CALIBRATION_MS;
    uint32_t start = port_read32(port), passed = 0;
    uint64_t tsc = time_tsc();
    for (unsigned i = 0; i < 10000000 && passed < wanted; i++)
        passed = (port_read32(port) - start) & 0xffffff;
    return passed >= wanted ? (time_tsc() - tsc) * PM_TIMER_HZ / passed : 0;
}

static uint16_t pit_count(void)
{
    port_write8(0x43, 0x00); // latch counter 0
    uint8_t low = port_read8(0x40);
    return (uint16_t)(low | port_read8(0x40) << 8);
}

// The same with the PIT's counter 0, whose interrupt is masked: it needs no gate at port 0x61.
static uint64_t hz_from_pit(void)
{
    const uint16_t wanted = (uint16_t)(PIT_HZ / 1000 * CALIBRATION_MS);
    port_write8(0x43, 0x34); // mode 2, 16 bits
    port_write8(0x40, 0xff);
    port_write8(0x40, 0xff);
    uint16_t start = pit_count(), passed = 0;
    uint64_t tsc = time_tsc();
    for (unsigned i = 0; i < 1000000 && passed < wanted; i++)
        passed = (uint16_t)(start - pit_count());
    return passed >= wanted ? (time_tsc() - tsc) * PIT_HZ / passed : 0;
}

uint64_t time_tsc_hz(void)
{
    if (hz || found(kvm_tsc_hz(), "kvm-leaf") || found(kvm_clock_tsc_hz(), "kvmclock") ||
        found(hz_from_cpuid(), "cpuid") || found(hz_from_pm_timer(), "pm-timer") ||
        found(hz_from_pit(), "pit"))
        return hz;
    // Something to go on with: the figures will be wrong and the source says so.
    hz = 1000000000;
    return hz;
}

const char *time_tsc_source(void)
{
    time_tsc_hz();
    return source;
}

uint64_t time_tsc_to_ns(uint64_t ticks)
{
    return multiply_divide(ticks, 1000000000, time_tsc_hz());
}

uint64_t time_ns_to_tsc(uint64_t ns)
{
    return multiply_divide(ns, time_tsc_hz(), 1000000000);
}

uint64_t time_now_ns(void)
{
    return time_tsc_to_ns(time_tsc());
}

void time_delay_ns(uint64_t ns)
{
    uint64_t start = time_tsc(), ticks = time_ns_to_tsc(ns);
    while (time_tsc() - start < ticks)
        __builtin_ia32_pause();
}

uint64_t time_sleep_until(uint64_t tsc)
{
    struct cpu *cpu = this_cpu();
    for (;;) {
        uint64_t seen = cpu->irq_total, timers = cpu->irq_count[VECTOR_TIMER];
        uint64_t now = time_tsc();
        if (now >= tsc)
            return now;
        lapic_timer_after_ns(time_tsc_to_ns(tsc - now) + 1);
        cpu_sleep(seen);
        if (cpu->irq_total - seen != cpu->irq_count[VECTOR_TIMER] - timers)
            return time_tsc();
    }
}

void time_sleep_until_or(uint64_t tsc, uint64_t seen)
{
    struct cpu *cpu = this_cpu();
    uint64_t now = time_tsc();
    if (now >= tsc)
        return;
    // A timer that is armed already and not later will do: arming costs two ways into ring 0.
    bool armed = cpu->timer_deadline > now && cpu->timer_count == cpu->irq_count[VECTOR_TIMER];
    if (!armed || cpu->timer_deadline > tsc) {
        cpu->timer_count = cpu->irq_count[VECTOR_TIMER];
        lapic_timer_after_ns(time_tsc_to_ns(tsc - now) + 1);
        cpu->timer_deadline = tsc;
    }
    cpu_sleep(seen);
}

void time_sleep_ns(uint64_t ns)
{
    uint64_t end = time_tsc() + time_ns_to_tsc(ns);
    while (time_sleep_until(end) < end)
        ;
}
