// The memory that the devices are let loose on; hostile.h says how it is laid out.
#include "guest/tests/hostile.h"

#include "guest/lib/boot_parameters.h"
#include "guest/lib/console.h"
#include "guest/lib/memory.h"
#include "guest/lib/pages.h"
#include "guest/lib/random.h"

enum {
    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,
    DESCRIPTOR_INDIRECT = 4,
    PFN_SHIFT = 12,
};
#define MIB          0x100000ul
#define FOUR_GIB     0x100000000ul
#define TABLES_SIZE  (4 * MIB) // of which the last MiB is only reached, never pointed at
#define TABLES_USED  (3 * MIB)
#define BUFFERS_SIZE (4 * MIB)
#define HEADERS_SIZE 0x10000ul // the buffers begin with headers of requests
#define PFNS_SIZE    0x10000ul // behind them page numbers, for a balloon

static uint64_t tables, buffers;

bool hostile_memory_start(void)
{
    const struct boot_parameters *boot = boot_parameters();
    uint64_t top = 0;
    for (unsigned i = 0; i < boot->range_count; i++) {
        uint64_t end = boot->ranges[i].start + boot->ranges[i].size;
        if (boot->ranges[i].type == MEMORY_RAM && end <= FOUR_GIB && end > top)
            top = end;
    }
    if (top < TABLES_SIZE + BUFFERS_SIZE || top & 0xfff ||
        !pages_take(top - TABLES_SIZE - BUFFERS_SIZE, TABLES_SIZE + BUFFERS_SIZE)) {
        console_line("hostile needs 8 MiB at the end of RAM");
        return false;
    }
    buffers = top - BUFFERS_SIZE;
    tables = buffers - TABLES_SIZE;
    memset((void *)tables, 0, TABLES_SIZE);
    return true;
}

static uint64_t pick(uint64_t *random, uint64_t start, uint64_t size, uint64_t step)
{
    return start + random_below(random, size / step) * step;
}

// Where there is no RAM: holes, interrupt controllers, config space, devices, the end of the
// address space, and the last bytes of RAM, which anything longer leaves.
static uint64_t address_of_nothing(uint64_t *random)
{
    static const uint64_t places[] = {
        0xc0000000,  0xc0001000,     0xe0000000,         0xfec00000,          0xfee00000,
        0xff000000,  0xfffff000,     0x100000000000,     0x8000000000000000,  0xffffffffffffff00,
        0xfffffff8u, 0xfffffffff000, 0x7fffffffffffff00, 0xfffffffffffffff8u,
    };
    return places[random_below(random, sizeof(places) / sizeof(places[0]))];
}

uint64_t hostile_table_address(uint64_t *random)
{
    if (!random_below(random, 16))
        return address_of_nothing(random);
    return pick(random, tables, TABLES_USED, random_below(random, 8) ? 256 : 16);
}

uint64_t hostile_available_address(uint64_t *random)
{
    if (!random_below(random, 16))
        return address_of_nothing(random);
    return pick(random, buffers, BUFFERS_SIZE, random_below(random, 8) ? 64 : 1);
}

uint64_t hostile_used_address(uint64_t *random)
{
    if (!random_below(random, 16))
        return address_of_nothing(random);
    // Behind the numbers of pages that a balloon reads: they must stay what they are.
    return pick(random, buffers + MIB, BUFFERS_SIZE - MIB, random_below(random, 8) ? 64 : 1);
}

static uint32_t length(uint64_t *random)
{
    switch (random_below(random, 8)) {
    case 0:
        return 0;
    case 1:
        return (uint32_t)random_next(random);
    case 2:
        return 1;
    case 3:
        return 16;
    default:
        return (uint32_t)(random_below(random, 2) ? 512ul << random_below(random, 6)
                                                  : random_below(random, 5000));
    }
}

// `kind` is a matter of the descriptor's place: one that a device may see half old and half new is
// still one of its kind, so no device is ever told to write into the tables.
enum descriptor_kind { KIND_HEADER, KIND_READ, KIND_TABLE, KIND_ANY };

static enum descriptor_kind kind_of(uint64_t at)
{
    static const uint8_t kinds[16] = {
        [0] = KIND_HEADER, [1] = KIND_ANY,  [2] = KIND_ANY,  [3] = KIND_READ,
        [4] = KIND_ANY,    [5] = KIND_ANY,  [6] = KIND_ANY,  [7] = KIND_TABLE,
        [8] = KIND_HEADER, [9] = KIND_ANY,  [10] = KIND_ANY, [11] = KIND_READ,
        [12] = KIND_TABLE, [13] = KIND_ANY, [14] = KIND_ANY, [15] = KIND_ANY,
    };
    return (enum descriptor_kind)kinds[at >> 4 & 15];
}

static void buffer_descriptor(volatile struct virtqueue_descriptor *d, enum descriptor_kind kind,
                              uint64_t *random)
{
    bool writable = random_below(random, 2) && kind == KIND_ANY;
    if (!random_below(random, 24))
        d->address = address_of_nothing(random);
    else if (kind == KIND_HEADER)
        d->address = pick(random, buffers, HEADERS_SIZE, 16);
    else if (kind == KIND_READ)
        d->address = pick(random, tables, TABLES_SIZE + BUFFERS_SIZE, 1);
    else
        d->address = pick(random, buffers, BUFFERS_SIZE, random_below(random, 4) ? 512 : 1);
    d->size = kind == KIND_HEADER && random_below(random, 4) ? 16 : length(random);
    uint16_t flags = writable ? DESCRIPTOR_WRITE : 0;
    if (random_below(random, 4))
        flags |= DESCRIPTOR_NEXT;
    if (!random_below(random, 32)) // bits that mean nothing
        flags |= (uint16_t)random_next(random) & 0xfff8;
    d->flags = flags;
}

static void table_descriptor(volatile struct virtqueue_descriptor *d, uint64_t *random)
{
    d->address = pick(random, tables, TABLES_USED, 16);
    d->size = random_below(random, 4) ? 16 * (uint32_t)random_below(random, 300)
                                      : (uint32_t)random_next(random) % (1u << 20);
    uint16_t flags = DESCRIPTOR_INDIRECT;
    if (!random_below(random, 4))
        flags |= DESCRIPTOR_NEXT;
    if (!random_below(random, 4))
        flags |= DESCRIPTOR_WRITE;
    d->flags = flags;
}

// A balloon takes pages away: it gets to read the numbers of pages in the arena's buffers, and of
// none that the guest lives in.
static void balloon_descriptor(volatile struct virtqueue_descriptor *d, enum descriptor_kind kind,
                               uint64_t *random)
{
    bool writable = kind == KIND_ANY;
    d->address = writable ? pick(random, buffers + MIB, BUFFERS_SIZE - MIB, 4096)
                          : pick(random, buffers + HEADERS_SIZE, PFNS_SIZE / 2, 4);
    // Whole numbers: halves of two could make that of a page that the guest lives in.
    d->size = (uint32_t)random_below(random, PFNS_SIZE / 2) & ~3u;
    d->flags = (uint16_t)((writable ? DESCRIPTOR_WRITE : 0) |
                          (random_below(random, 3) ? 0 : DESCRIPTOR_NEXT));
}

void hostile_descriptor_write(const struct hostile_victim *victim, uint64_t table, uint64_t *random)
{
    uint64_t at =
        table ? table + 16 * random_below(random, 64) : pick(random, tables, TABLES_SIZE, 16);
    if (at < tables || at >= buffers)
        return;
    volatile struct virtqueue_descriptor *d = (volatile struct virtqueue_descriptor *)at;
    enum descriptor_kind kind = kind_of(at);
    if (kind == KIND_TABLE)
        table_descriptor(d, random);
    else if (victim->type == VIRTIO_BALLOON)
        balloon_descriptor(d, kind, random);
    else
        buffer_descriptor(d, kind, random);
    uint16_t own = table ? (uint16_t)((at - table) / 16) : (uint16_t)(at >> 4);
    d->next = random_below(random, 8) ? (uint16_t)(own + 1) : (uint16_t)random_next(random);
}

// Eight descriptors make a group that begins with one for a header; these of a group can be of
// either direction.
static const uint8_t free_slots[2][5] = {{1, 2, 4, 5, 6}, {1, 2, 5, 6, 7}};

uint16_t hostile_chain_write(const struct hostile_victim *victim, uint64_t table,
                             enum hostile_form form, uint64_t *random)
{
    unsigned group = (unsigned)random_below(random, 4), count = 0;
    const uint8_t *slots = free_slots[(table >> 7 & 1) ^ (group & 1)];
    uint16_t order[6];
    if (table < tables || table >= buffers || table & 127 || victim->type == VIRTIO_BALLOON) {
        hostile_descriptor_write(victim, table, random);
        return (uint16_t)random_below(random, 32);
    }
    if (form != HOSTILE_WRITTEN)
        order[count++] = (uint16_t)(8 * group);
    unsigned data = 1 + (unsigned)random_below(random, 4);
    unsigned readable = form == HOSTILE_READ   ? data
                        : form == HOSTILE_BOTH ? (unsigned)random_below(random, 2) * (data - 1)
                                               : 0;
    for (unsigned i = 0; i < data; i++)
        order[count++] = (uint16_t)(8 * group + slots[i]);
    for (unsigned i = 0; i < count; i++) {
        volatile struct virtqueue_descriptor *d =
            (volatile struct virtqueue_descriptor *)(table + 16ul * order[i]);
        bool header = form != HOSTILE_WRITTEN && i == 0, last = i + 1 == count;
        bool writes = !header && i - (form != HOSTILE_WRITTEN) >= readable;
        d->address = header ? pick(random, buffers, HEADERS_SIZE, 16)
                            : pick(random, buffers + MIB, BUFFERS_SIZE - 2 * MIB, 8);
        d->size = header                         ? (victim->type == VIRTIO_NET ? 12 : 16)
                  : last && form == HOSTILE_BOTH ? 1
                  : random_below(random, 4)      ? 512u << random_below(random, 5)
                                                 : (uint32_t)random_below(random, 5000);
        d->flags = (uint16_t)((writes ? DESCRIPTOR_WRITE : 0) | (last ? 0 : DESCRIPTOR_NEXT));
        d->next = last ? 0 : order[i + 1];
    }
    return order[0];
}

// The header of a disk's request: type, 32 bits nobody uses, sector. A network card takes the first
// twelve bytes for flags, kind of segmentation, sizes and offsets; a console for text.
static void header_write(uint64_t *random)
{
    static const uint32_t types[] = {0, 1, 1, 0, 4, 8, 11, 13, 14, 2};
    volatile uint32_t *header = (volatile uint32_t *)pick(random, buffers, HEADERS_SIZE, 16);
    if (random_below(random, 3)) {
        header[0] = types[random_below(random, sizeof(types) / sizeof(types[0]))];
        header[1] = 0;
        header[2] = (uint32_t)random_below(random, 4096);
        header[3] = random_below(random, 16) ? 0 : (uint32_t)random_next(random);
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        header[i] =
            (uint32_t)random_next(random) & (random_below(random, 2) ? 0xffffffff : 0x003f0703);
}

void hostile_buffers_write(const struct hostile_victim *victim, uint64_t *random)
{
    header_write(random);
    volatile uint32_t *pfn =
        (volatile uint32_t *)pick(random, buffers + HEADERS_SIZE, PFNS_SIZE, 4);
    *pfn = random_below(random, 8)
               ? (uint32_t)(pick(random, buffers + MIB, BUFFERS_SIZE - MIB, 4096) >> PFN_SHIFT)
               : (uint32_t)random_next(random) | 0x00100000;
    if (victim->type != VIRTIO_BALLOON)
        *(volatile uint64_t *)pick(random, buffers, BUFFERS_SIZE, 8) = random_next(random);
}

void hostile_forget_descriptors(void)
{
    memset((void *)tables, 0, TABLES_SIZE);
}

void hostile_mark(void)
{
    memset((void *)buffers, 0x5a, BUFFERS_SIZE);
}

uint64_t hostile_marks_lost(void)
{
    uint64_t lost = 0;
    for (volatile uint64_t *word = (volatile uint64_t *)buffers;
         word < (volatile uint64_t *)(buffers + BUFFERS_SIZE); word++)
        lost += *word != 0x5a5a5a5a5a5a5a5aul;
    return lost;
}
