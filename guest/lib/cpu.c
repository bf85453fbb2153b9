#include "guest/lib/cpu.h"

#include "guest/drivers/acpi.h"
#include "guest/drivers/lapic.h"
#include "guest/lib/console.h"
#include "guest/lib/gate.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"

// The 64-bit TSS (SDM volume 3, 7.7).
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t bitmap_offset;
    uint8_t bitmap[TSS_BITMAP_BYTES + 1];
} __attribute__((packed));
_Static_assert(__builtin_offsetof(struct tss, bitmap) == TSS_SIZE, "layout.h");

extern char boot_cpu[];
extern uint64_t gdt[];
extern const char trampoline_start[], trampoline_end[], trampoline_cpu[];

static struct cpu *cpus[CPU_MAX];
static unsigned count;

static void cpu_tss_fill(struct cpu *cpu)
{
    struct tss *tss = (struct tss *)((char *)cpu + CPU_TSS);
    memset(tss, 0, sizeof(*tss));
    tss->rsp[0] = (uint64_t)cpu + CPU_RING0_TOP;
    tss->bitmap_offset = TSS_SIZE;
    tss->bitmap[TSS_BITMAP_BYTES] = 0xff;

    uint64_t base = (uint64_t)tss;
    uint64_t *descriptor = &gdt[TSS_FIRST / 8 + 2 * cpu->index];
    descriptor[0] = TSS_LIMIT | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
    descriptor[1] = base >> 32;
}

// Starts one vCPU and waits until it answers; false when it doesn't within a second.
static bool cpu_start(uint32_t apic_id)
{
    struct cpu *cpu = pages_allocate(CPU_BLOCK_SIZE, CPU_BLOCK_SIZE);
    if (!cpu)
        return false;
    memset(cpu, 0, sizeof(*cpu));
    cpu->index = count;
    cpu->apic_id = apic_id;
    cpu_tss_fill(cpu);
    cpus[count] = cpu;
    *(volatile uint64_t *)(TRAMPOLINE + (trampoline_cpu - trampoline_start)) = (uint64_t)cpu;

    lapic_send_init(apic_id);
    // One SIPI is enough for most; a second one for those that were still busy with the INIT.
    uint64_t limit = time_now_ns() + 1000000000;
    while (!cpu->online && time_now_ns() < limit) {
        lapic_send_startup(apic_id, TRAMPOLINE >> 12);
        uint64_t again = time_now_ns() + 50000000;
        while (!cpu->online && time_now_ns() < again)
            __builtin_ia32_pause();
    }
    if (!cpu->online) {
        console_line("cpu apic=%u did not start", apic_id);
        cpus[count] = NULL;
        return false;
    }
    count++;
    return true;
}

unsigned cpu_start_all(void)
{
    if (count)
        return count;
    struct cpu *self = this_cpu();
    lapic_start();
    self->apic_id = lapic_id();
    self->online = true;
    cpus[0] = self;
    count = 1;

    uint32_t apic_ids[CPU_MAX];
    unsigned listed = acpi_cpus(apic_ids, CPU_MAX);
    uint64_t wanted = option_number("cpus", CPU_MAX);
    if (listed < 2 || wanted < 2)
        return count;
    memcpy((void *)TRAMPOLINE, trampoline_start, (size_t)(trampoline_end - trampoline_start));
    for (unsigned i = 0; i < listed && count < wanted; i++)
        if (apic_ids[i] != self->apic_id && !cpu_start(apic_ids[i]))
            break;
    return count;
}

unsigned cpu_count(void)
{
    return count ? count : 1;
}

struct cpu *cpu_get(unsigned index)
{
    return index < count ? cpus[index] : NULL;
}

void cpu_sleep(uint64_t seen)
{
    gate_sleep(&this_cpu()->irq_total, seen);
}

void cpu_wake(struct cpu *cpu)
{
    lapic_send(cpu->apic_id, VECTOR_WAKE);
}

void cpu_worker(void)
{
    struct cpu *self = this_cpu();
    lapic_start();
    __atomic_store_n(&self->online, true, __ATOMIC_RELEASE);
    for (;;) {
        uint64_t seen = self->irq_total;
        void (*job)(void *) = __atomic_load_n(&self->job, __ATOMIC_ACQUIRE);
        if (!job) {
            cpu_sleep(seen);
            continue;
        }
        job(self->job_argument);
        __atomic_store_n(&self->job, NULL, __ATOMIC_RELEASE);
        cpu_wake(cpus[0]);
    }
}

void cpu_run(unsigned how_many, void (*job)(void *argument), void *arguments, uint64_t size)
{
    for (unsigned i = 1; i < how_many; i++) {
        cpus[i]->job_argument = (char *)arguments + i * size;
        __atomic_store_n(&cpus[i]->job, job, __ATOMIC_RELEASE);
        cpu_wake(cpus[i]);
    }
    job(arguments);
    for (unsigned i = 1; i < how_many; i++) {
        for (;;) {
            uint64_t seen = this_cpu()->irq_total;
            if (!__atomic_load_n(&cpus[i]->job, __ATOMIC_ACQUIRE))
                break;
            cpu_sleep(seen);
        }
    }
}
