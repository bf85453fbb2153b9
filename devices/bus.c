#include "devices/bus.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// Immutable once published. Invariant: ranges ascend and don't overlap.
struct bus_table {
    struct bus_table *next_retired;
    size_t count;
    struct bus_range ranges[];
};

static struct bus_table *table_new(size_t count)
{
    struct bus_table *table = malloc(sizeof(*table) + count * sizeof(table->ranges[0]));
    if (table) {
        table->next_retired = NULL;
        table->count = count;
    }
    return table;
}

int bus_init(struct bus *bus)
{
    memset(bus, 0, sizeof(*bus));
    struct bus_table *table = table_new(0);
    if (!table)
        return -ENOMEM;
    int rc = pthread_mutex_init(&bus->lock, NULL);
    if (rc) {
        free(table);
        return -rc;
    }
    atomic_init(&bus->table, table);
    atomic_init(&bus->readers, 0);
    return 0;
}

static void free_retired(struct bus *bus)
{
    while (bus->retired) {
        struct bus_table *table = bus->retired;
        bus->retired = table->next_retired;
        free(table);
    }
}

void bus_destroy(struct bus *bus)
{
    free_retired(bus);
    free(atomic_load(&bus->table));
    atomic_store(&bus->table, NULL);
    pthread_mutex_destroy(&bus->lock);
}

void bus_reclaim(struct bus *bus)
{
    pthread_mutex_lock(&bus->lock);
    free_retired(bus);
    pthread_mutex_unlock(&bus->lock);
}

// The new table is what look-ups find from now on. Called with the lock held.
static void publish(struct bus *bus, struct bus_table *table)
{
    struct bus_table *old = atomic_exchange(&bus->table, table);
    old->next_retired = bus->retired;
    bus->retired = old;
    // Sequentially consistent on both sides: a look-up that counts itself after this load also
    // loads the table after the exchange above, so it can't hold a retired one.
    if (atomic_load(&bus->readers) == 0)
        free_retired(bus);
}

// The number of ranges that start at or below `address`.
static size_t count_starts(const struct bus_table *table, uint64_t address)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->ranges[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int bus_add(struct bus *bus, const struct bus_range *range)
{
    uint64_t last = range->start + range->size - 1;
    if (range->size == 0 || last < range->start)
        return -EINVAL;
    int rc = 0;
    pthread_mutex_lock(&bus->lock);
    const struct bus_table *old = atomic_load(&bus->table);
    size_t at = count_starts(old, range->start);
    const struct bus_range *before = at > 0 ? &old->ranges[at - 1] : NULL;
    if ((before && range->start - before->start < before->size) ||
        (at < old->count && old->ranges[at].start <= last)) {
        rc = -EEXIST;
        goto out;
    }
    struct bus_table *table = table_new(old->count + 1);
    if (!table) {
        rc = -ENOMEM;
        goto out;
    }
    memcpy(table->ranges, old->ranges, at * sizeof(*range));
    table->ranges[at] = *range;
    memcpy(&table->ranges[at + 1], &old->ranges[at], (old->count - at) * sizeof(*range));
    publish(bus, table);
out:
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

void bus_remove(struct bus *bus, uint64_t start)
{
    pthread_mutex_lock(&bus->lock);
    struct bus_table *old = atomic_load(&bus->table);
    size_t at = count_starts(old, start);
    if (at == 0 || old->ranges[at - 1].start != start)
        goto out;
    at--;
    struct bus_table *table = table_new(old->count - 1);
    if (table) {
        memcpy(table->ranges, old->ranges, at * sizeof(old->ranges[0]));
        memcpy(&table->ranges[at], &old->ranges[at + 1],
               (old->count - at - 1) * sizeof(old->ranges[0]));
        publish(bus, table);
    } else {
        // Removal must not fail: whoever removes frees the object next. The range is blinded in
        // place, which a look-up sees either before or after.
        static const struct bus_handler nothing = {0};
        old->ranges[at].handler = &nothing;
    }
out:
    pthread_mutex_unlock(&bus->lock);
}

// Copies the range that holds `address`; false when nobody claims it.
static bool find(struct bus *bus, uint64_t address, struct bus_range *range)
{
    atomic_fetch_add(&bus->readers, 1);
    const struct bus_table *table = atomic_load(&bus->table);
    size_t at = count_starts(table, address);
    bool found = at > 0 && address - table->ranges[at - 1].start < table->ranges[at - 1].size;
    if (found)
        *range = table->ranges[at - 1];
    // Release: the copy is complete before a writer may see the count fall and free the table.
    atomic_fetch_sub_explicit(&bus->readers, 1, memory_order_release);
    return found;
}

// Whether a handler can take the access in one piece.
static bool fits(const struct bus_range *range, uint64_t address, unsigned length)
{
    return (length == 1 || length == 2 || length == 4 || length == 8) &&
           length <= range->size - (address - range->start);
}

static uint64_t from_bytes(const uint8_t *bytes, unsigned length)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < length; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static void to_bytes(uint64_t value, uint8_t *bytes, unsigned length)
{
    for (unsigned i = 0; i < length; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static void read_piece(struct bus *bus, uint64_t address, uint8_t *data, unsigned length)
{
    struct bus_range range;
    bool found = find(bus, address, &range);
    if (length > 1 && (!found || !fits(&range, address, length))) {
        for (unsigned i = 0; i < length; i++)
            read_piece(bus, address + i, data + i, 1);
        return;
    }
    uint64_t value = UINT64_MAX;
    if (found && range.handler->read)
        value = range.handler->read(range.opaque, address - range.start, length);
    to_bytes(value, data, length);
}

static void write_piece(struct bus *bus, uint64_t address, const uint8_t *data, unsigned length)
{
    struct bus_range range;
    bool found = find(bus, address, &range);
    if (length > 1 && (!found || !fits(&range, address, length))) {
        for (unsigned i = 0; i < length; i++)
            write_piece(bus, address + i, data + i, 1);
        return;
    }
    if (found && range.handler->write)
        range.handler->write(range.opaque, address - range.start, length, from_bytes(data, length));
}

void bus_read(struct bus *bus, uint64_t address, void *data, unsigned length)
{
    read_piece(bus, address, data, length);
}

void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned length)
{
    write_piece(bus, address, data, length);
}
