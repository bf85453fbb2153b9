// An address space of devices: ports, or MMIO. Addresses that nobody claims read as all ones.
//
// Look-up takes no lock that a handler runs under, since a handler may itself change the bus (a
// write to a BAR moves its range). bus_add and bus_remove take the bus's own mutex and publish a
// new sorted table; an access that had found a range before its removal may still be running in its
// handler. So whoever frees a handler's object first has all vCPUs out of the bus (the machine
// destroys devices only then), and tables that were replaced are freed by bus_reclaim(), called at
// such a moment. Between such moments a change frees them too whenever it sees that no look-up is
// under way, so a guest that moves a BAR for ever doesn't eat the host's memory.
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

// `offset` counts from the start of the range; `length` is 1, 2, 4 or 8 and stays inside it.
// Accesses that cross the end of a range are split into bytes by the bus.
struct bus_handler {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned length);
    void (*write)(void *opaque, uint64_t offset, unsigned length, uint64_t value);
};

struct bus_range {
    uint64_t start, size;
    const struct bus_handler *handler;
    void *opaque;
    const char *name; // for messages; lives as long as the range
};

struct bus_table;

struct bus {
    _Atomic(struct bus_table *) table;
    pthread_mutex_t lock;      // guards changes; look-ups don't take it
    struct bus_table *retired; // replaced tables that a look-up may still be reading
    atomic_uint readers;       // look-ups under way (not handlers: they work on a copy)
};

int bus_init(struct bus *bus);
void bus_destroy(struct bus *bus);
// 0; -EINVAL on an empty or wrapping range; -EEXIST when it overlaps another; -ENOMEM.
int bus_add(struct bus *bus, const struct bus_range *range);
// Removes the range that starts here; nothing happens when there is none.
void bus_remove(struct bus *bus, uint64_t start);
// Frees replaced tables. Only while no vCPU is in the bus.
void bus_reclaim(struct bus *bus);

// `data` holds `length` bytes (any length up to 8), little-endian. Never fail.
void bus_read(struct bus *bus, uint64_t address, void *data, unsigned length);
void bus_write(struct bus *bus, uint64_t address, const void *data, unsigned length);
