// hostile: does to every virtio device of the machine what a driver must not: random registers, PCI
// configuration, MSI-X tables, doorbells and rings, from all vCPUs at once. After each round the
// device is reset and must do its work. rounds=20 a device, steps=400 accesses a round, seed=1,
// device= (a virtio type; all), peer= (an address behind the first network card).
#include "guest/tests/hostile.h"

#include "guest/drivers/virtio_common.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/random.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    VICTIMS_MAX = 16,
    TYPES = 64,
    CPUS = 8,
    VENDOR_VIRTIO = 0x1af4,
    DEVICE_MODERN = 0x1040,
    REGISTER_COMMAND = 0x04,
    REGISTER_BARS = 0x10,
    MARK_NS = 2000000,
};

static struct hostile_victim victims[VICTIMS_MAX];
static unsigned victim_count;

static bool add_victim(const struct pci_device *pci, void *argument)
{
    unsigned *of_type = argument, type = pci->device - DEVICE_MODERN;
    uint64_t wanted = option_number("device", 0);
    if (pci->vendor != VENDOR_VIRTIO || type >= TYPES || victim_count == VICTIMS_MAX)
        return true;
    unsigned index = of_type[type]++;
    if (wanted && wanted != type)
        return true;
    // Its console is how the test says what it found.
    if (type == VIRTIO_CONSOLE && option_is("out", "virtio"))
        return true;
    victims[victim_count++] =
        (struct hostile_victim){.type = (enum virtio_type)type, .index = index};
    return true;
}

// Where everything of the device is while it is sane: pages are mapped now, so that none is needed
// for it later.
static bool learn(struct hostile_victim *victim)
{
    if (!virtio_open(&victim->device, victim->type, victim->index, 0))
        return false;
    const struct pci_device *pci = &victim->device.pci;
    victim->command = pci_read16(pci, REGISTER_COMMAND);
    for (unsigned i = 0; i < HOSTILE_BARS; i++)
        victim->bars[i] = pci_read32(pci, (uint16_t)(REGISTER_BARS + 4 * i));
    victim->queue_count = victim->device.common->queue_count;
    return hostile_restore(victim);
}

// ---- a round ----

struct attack {
    struct hostile_victim *victim;
    uint64_t random, steps;
    bool mild; // rings that a device can serve for a while; else whatever
    volatile bool *over;
    struct hostile_counts counts;
};

static void fill_and_kick(struct attack *a)
{
    hostile_ring_write(a->victim, a->mild, &a->random);
    a->counts.chains++;
    if (random_below(&a->random, 4))
        return;
    hostile_kick(a->victim, &a->random);
    a->counts.kicks++;
}

// The first vCPU does registers, and rings as well; the others rings and doorbells only, as fast as
// they can, until it is done.
static void attack_job(void *argument)
{
    struct attack *a = argument;
    if (this_cpu()->index) {
        while (!*a->over)
            fill_and_kick(a);
        return;
    }
    hostile_program(a->victim, a->mild, &a->random);
    for (uint64_t i = 0; i < a->steps; i++) {
        hostile_access(a->victim, a->mild, &a->random);
        fill_and_kick(a);
        a->counts.accesses++;
    }
    *a->over = true;
}

// The device may be broken by now, but after a reset it must not touch memory any more.
static bool leaves_memory_alone(const struct hostile_victim *victim)
{
    hostile_mark();
    time_delay_ns(MARK_NS);
    uint64_t lost = hostile_marks_lost();
    if (lost)
        console_line("hostile type=%u index=%u wrote to memory after a reset words=%lu",
                     victim->type, victim->index, lost);
    return !lost;
}

static bool round_run(struct hostile_victim *victim, uint64_t seed, struct hostile_counts *counts)
{
    static struct attack attacks[CPUS];
    static volatile bool over;
    unsigned cpus = cpu_count() < CPUS ? cpu_count() : CPUS;
    over = false;
    // What was written for another device would have a balloon read any bytes as numbers of pages,
    // and take them from the guest's own code.
    if (victim->type == VIRTIO_BALLOON)
        hostile_forget_descriptors();
    for (unsigned i = 0; i < cpus; i++)
        attacks[i] = (struct attack){.victim = victim,
                                     .random = random_mix(seed ^ (uint64_t)(i + 1) << 32),
                                     .mild = seed & 1,
                                     .steps = option_number("steps", 400),
                                     .over = &over};
    cpu_run(cpus, attack_job, attacks, sizeof(attacks[0]));
    for (unsigned i = 0; i < cpus; i++) {
        counts->accesses += attacks[i].counts.accesses;
        counts->kicks += attacks[i].counts.kicks;
        counts->chains += attacks[i].counts.chains;
    }
    if (!hostile_restore(victim)) {
        console_line("hostile type=%u index=%u doesn't reset", victim->type, victim->index);
        return false;
    }
    return leaves_memory_alone(victim);
}

bool test_hostile(void)
{
    unsigned of_type[TYPES] = {0};
    struct hostile_counts counts = {0};
    uint64_t rounds = option_number("rounds", 20), seed = option_number("seed", 1);
    unsigned cpus = cpu_start_all();
    pci_visit(add_victim, of_type);
    if (!victim_count || !hostile_memory_start())
        return false;
    for (unsigned i = 0; i < victim_count; i++)
        if (!learn(&victims[i]) || !hostile_check(&victims[i]) || !hostile_restore(&victims[i]))
            return false;
    console_line("hostile ready victims=%u cpus=%u", victim_count, cpus);
    // What a check takes it gives back: after a reset nobody uses it.
    struct pages_mark mark;
    pages_mark_take(&mark);
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < victim_count; i++) {
            if (!round_run(&victims[i], random_mix(seed + round) + i, &counts) ||
                !hostile_check(&victims[i]) || !hostile_restore(&victims[i])) {
                console_line("hostile error seed=%lu round=%lu type=%u", seed, round,
                             victims[i].type);
                return false;
            }
            pages_mark_return(&mark);
        }
        if ((round + 1) % 10 == 0)
            console_line("hostile rounds=%lu accesses=%lu kicks=%lu chains=%lu", round + 1,
                         counts.accesses, counts.kicks, counts.chains);
    }
    test_summary("victims=%u rounds=%lu accesses=%lu kicks=%lu", victim_count, rounds,
                 counts.accesses, counts.kicks);
    return true;
}
