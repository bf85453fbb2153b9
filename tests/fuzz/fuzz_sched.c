// The policy of time slicing on memory that others write nonsense to, in the middle of its work:
// whatever it is asked then, it returns soon and touches nothing outside. The input is a series of
// calls and of writes to the memory.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/sched/sched_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ENTITIES = 1024, GROUPS = 256, PAGE = 4096 };

static uint8_t *memory; // between two pages that nobody may touch
static size_t room;

static void get_memory(void)
{
    room = (sched_policy_size(SCHED_ENTITIES_LIMIT) + PAGE - 1) & ~(size_t)(PAGE - 1);
    uint8_t *all = mmap(NULL, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all + PAGE, room, PROT_READ | PROT_WRITE) != 0)
        abort();
    memory = all + PAGE;
}

struct input {
    const uint8_t *at;
    size_t left;
};

static uint64_t take(struct input *in, size_t bytes)
{
    uint64_t value = 0;
    size_t n = bytes < in->left ? bytes : in->left;
    memcpy(&value, in->at, n);
    in->at += n;
    in->left -= n;
    return value;
}

// Numbers are near to those that are in use, mostly.
static uint32_t take_number(struct input *in)
{
    uint32_t value = (uint32_t)take(in, 1);
    return value < 0xf0 ? value % 16 : value == 0xff ? SCHED_NONE : (uint32_t)take(in, 4);
}

static struct sched_params take_params(struct input *in, const struct sched_policy *p)
{
    struct sched_params params = {
        .weight = 1 + (unsigned)take(in, 2) % SCHED_WEIGHT_MOST,
        .slice = SCHED_SLICE_LEAST + take(in, 3) % SCHED_SLICE_MOST,
        .affinity = *sched_policy_cpus(p),
    };
    uint64_t some = take(in, 1);
    if (some)
        params.affinity = (struct sched_cpus){.bits = {some}};
    if (take(in, 1) & 1)
        params.cap = (struct sched_cap_limits){.quota = 1 + take(in, 3), .period = 20000000};
    return params;
}

// One write, or one that fills: with the same word again and again.
static void write_nonsense(struct input *in)
{
    uint8_t kind = (uint8_t)take(in, 1);
    // Mostly to the head and to the first entities.
    size_t most = kind & 1 ? room : sizeof(struct sched_policy) + 16 * sizeof(struct sched_entity);
    size_t offset = take(in, 3) % most & ~(size_t)3, count = kind & 2 ? 1 + take(in, 2) : 1;
    uint32_t word = kind & 4 ? take_number(in) : (uint32_t)take(in, 4);
    for (size_t i = 0; i < count && offset + 4 <= room; i++, offset += 4)
        memcpy(memory + offset, &word, 4);
}

static void call(struct sched_policy *p, struct input *in, uint64_t now)
{
    struct sched_grant grant;
    struct sched_params params;
    struct sched_cap_limits cap = {.quota = take(in, 2), .period = 20000000};
    struct sched_cpus cpus;
    uint8_t what = (uint8_t)(take(in, 1) % 20);
    uint32_t id = take_number(in);
    switch (what) {
    case 0:
        params = take_params(in, p);
        sched_policy_add(p, id, &params, now);
        break;
    case 1:
        params = take_params(in, p);
        sched_policy_set(p, id, &params, now);
        break;
    case 2:
        sched_policy_remove(p, id, now);
        break;
    case 3:
        sched_policy_add_group(p);
        break;
    case 4:
        sched_policy_set_group_cap(p, id, &cap, now);
        break;
    case 5:
        sched_policy_remove_group(p, id, now);
        break;
    case 6:
    case 7:
        sched_policy_wake(p, id, now);
        break;
    case 8:
        sched_policy_sleep(p, id, now);
        break;
    case 9:
        sched_policy_stop(p, id, take(in, 4), take(in, 1) & 1, now);
        break;
    case 10:
        sched_policy_suspend(p, id, now);
        break;
    case 11:
        sched_policy_charge(p, id, (int32_t)take(in, 4), now);
        break;
    case 12:
        sched_policy_charge_since(p, id, take(in, 4), now - take(in, 4), now);
        break;
    case 13:
        sched_policy_audit(p);
        break;
    case 14:
        sched_policy_place(p, id, &cpus);
        sched_policy_may_use(p, id, sched_policy_cpu(p, id));
        sched_policy_share(p, id);
        sched_policy_lag(p, id, now);
        sched_policy_current(p, id);
        break;
    default: // picks are what most calls are
        sched_policy_pick(p, id % SCHED_CPUS_LIMIT, now, &grant);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    if (!memory)
        get_memory();
    madvise(memory, room, MADV_DONTNEED); // all zero again
    struct sched_policy *p = (struct sched_policy *)(void *)memory;
    struct sched_cpus cpus = {.bits = {1 + take(&in, 1)}};
    uint64_t now = 1000000000;
    sched_policy_init(p, ENTITIES, GROUPS, &cpus);
    sched_policy_add_group(p);
    for (unsigned calls = 0; in.left && calls < 100; calls++) {
        uint8_t what = (uint8_t)take(&in, 1);
        now += take(&in, 3);
        if (what % 8 == 0)
            write_nonsense(&in);
        else
            call(p, &in, now);
        // Found out, a board is left at the next lock; here it may be gone on with.
        if (what & 0x80)
            p->damaged = 0;
    }
    sched_policy_audit(p);
    return 0;
}
