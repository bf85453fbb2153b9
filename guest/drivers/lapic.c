// Intel SDM volume 3, chapter 11.
#include "guest/drivers/lapic.h"

#include "guest/layout.h"
#include "guest/lib/arithmetic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/privileged.h"
#include "guest/lib/time.h"

enum {
    REGISTER_ID = 0x20,
    REGISTER_TASK_PRIORITY = 0x80,
    REGISTER_EOI = 0xb0,
    REGISTER_SPURIOUS = 0xf0,
    REGISTER_COMMAND = 0x300,
    REGISTER_COMMAND_HIGH = 0x310,
    REGISTER_TIMER = 0x320,
    REGISTER_LINT0 = 0x350,
    REGISTER_LINT1 = 0x360,
    REGISTER_ERROR = 0x370,
    REGISTER_INITIAL_COUNT = 0x380,
    REGISTER_CURRENT_COUNT = 0x390,
    REGISTER_DIVIDE = 0x3e0,

    MASKED = 0x10000,
    TIMER_PERIODIC = 0x20000,
    TIMER_DEADLINE = 0x40000,
    DIVIDE_BY_16 = 3,

    COMMAND_INIT = 0x4500,
    COMMAND_STARTUP = 0x4600,
    COMMAND_FIXED = 0x4000,
    COMMAND_PENDING = 0x1000,
};
#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800

// The stub reads these two to know how it ends an interrupt.
uint64_t lapic_base = 0xfee00000;
uint8_t lapic_is_x2apic;

static bool has_deadline;
static uint64_t timer_hz; // ticks a second after the divider

static uint32_t lapic_read(uint32_t offset)
{
    if (lapic_is_x2apic)
        return (uint32_t)msr_read(MSR_X2APIC + (offset >> 4));
    return *(volatile uint32_t *)(lapic_base + offset);
}

static void lapic_write(uint32_t offset, uint32_t value)
{
    if (lapic_is_x2apic)
        msr_write(MSR_X2APIC + (offset >> 4), value);
    else
        *(volatile uint32_t *)(lapic_base + offset) = value;
}

bool lapic_x2apic(void)
{
    return lapic_is_x2apic;
}

void lapic_start(void)
{
    uint64_t base = msr_read(MSR_APIC_BASE);
    struct cpuid_registers features = cpuid_read(1, 0);
    bool x2apic = features.ecx & 1 << 21 && !option_is("apic", "xapic");
    msr_write(MSR_APIC_BASE, base | 0x800 | (x2apic ? 0x400 : 0));
    lapic_base = base & 0xffffff000;
    lapic_is_x2apic = x2apic;
    has_deadline = features.ecx & 1 << 24 && !option_is("timer", "lapic");
    if (!x2apic)
        pages_map_device(lapic_base, 4096);
    lapic_write(REGISTER_TASK_PRIORITY, 0);
    lapic_write(REGISTER_TIMER, MASKED | VECTOR_TIMER);
    lapic_write(REGISTER_LINT0, MASKED);
    lapic_write(REGISTER_LINT1, MASKED);
    lapic_write(REGISTER_ERROR, MASKED);
    lapic_write(REGISTER_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
}

uint32_t lapic_id(void)
{
    uint32_t id = lapic_read(REGISTER_ID);
    return lapic_is_x2apic ? id : id >> 24;
}

static void lapic_command(uint32_t apic_id, uint32_t command)
{
    if (lapic_is_x2apic) {
        msr_write(MSR_X2APIC + (REGISTER_COMMAND >> 4), (uint64_t)apic_id << 32 | command);
        return;
    }
    lapic_write(REGISTER_COMMAND_HIGH, apic_id << 24);
    lapic_write(REGISTER_COMMAND, command);
    while (lapic_read(REGISTER_COMMAND) & COMMAND_PENDING)
        __builtin_ia32_pause();
}

void lapic_send(uint32_t apic_id, uint8_t vector)
{
    lapic_command(apic_id, COMMAND_FIXED | vector);
}

void lapic_send_init(uint32_t apic_id)
{
    lapic_command(apic_id, COMMAND_INIT);
}

void lapic_send_startup(uint32_t apic_id, uint8_t page)
{
    lapic_command(apic_id, COMMAND_STARTUP | page);
}

void lapic_end_of_interrupt(void)
{
    lapic_write(REGISTER_EOI, 0);
}

// Counts the timer's ticks in 5 ms of TSC time.
static void timer_calibrate(void)
{
    lapic_write(REGISTER_DIVIDE, DIVIDE_BY_16);
    lapic_write(REGISTER_TIMER, MASKED | VECTOR_TIMER);
    lapic_write(REGISTER_INITIAL_COUNT, 0xffffffff);
    uint64_t start = time_tsc(), start_count = lapic_read(REGISTER_CURRENT_COUNT);
    time_delay_ns(5000000);
    uint64_t ns = time_tsc_to_ns(time_tsc() - start);
    uint64_t ticks = start_count - lapic_read(REGISTER_CURRENT_COUNT);
    lapic_write(REGISTER_INITIAL_COUNT, 0);
    timer_hz = multiply_divide(ticks, 1000000000, ns);
}

static void timer_count(uint64_t ns, uint32_t mode)
{
    if (!timer_hz)
        timer_calibrate();
    uint64_t ticks = multiply_divide(ns, timer_hz, 1000000000);
    if (ns && !ticks)
        ticks = 1;
    if (ticks > 0xffffffff)
        ticks = 0xffffffff;
    lapic_write(REGISTER_DIVIDE, DIVIDE_BY_16);
    lapic_write(REGISTER_TIMER, mode | VECTOR_TIMER);
    lapic_write(REGISTER_INITIAL_COUNT, (uint32_t)ticks);
}

void lapic_timer_after_ns(uint64_t ns)
{
    this_cpu()->timer_deadline = 0;
    if (!has_deadline) {
        timer_count(ns, 0);
        return;
    }
    lapic_write(REGISTER_TIMER, TIMER_DEADLINE | VECTOR_TIMER);
    // SDM 11.5.4.1: the LVT write must be seen before the MSR write when the APIC is memory-mapped.
    __asm__ volatile("mfence" : : : "memory");
    msr_write(MSR_TSC_DEADLINE, ns ? time_tsc() + time_ns_to_tsc(ns) : 0);
}

void lapic_timer_every_ns(uint64_t ns)
{
    timer_count(ns, TIMER_PERIODIC);
}
