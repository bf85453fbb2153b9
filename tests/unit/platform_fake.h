// A machine of counters for the tests of the platform devices: buses, interrupt lines, MSI vectors
// with real eventfds, requests. Every test includes this once, so it is a header of static
// functions.
#pragma once

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/bus.h"
#include "devices/machine_ops.h"

#define FAKE_UNUSED __attribute__((unused))

enum { FAKE_LINES = 32, FAKE_VECTORS = 64 };

struct fake_vector {
    bool used, masked;
    int event_fd;
    uint64_t address;
    uint32_t data;
    unsigned updates;
};

struct fake_machine {
    struct machine_bus bus; // what devices get
    struct bus ports, mmio;
    bool lines[FAKE_LINES];
    unsigned line_changes[FAKE_LINES];
    struct fake_vector vectors[FAKE_VECTORS];
    unsigned vectors_limit; // msi_new fails beyond
    unsigned request_count;
    enum machine_request last_request;
    int last_value;
};

static FAKE_UNUSED void fake_irq_line(void *machine, uint32_t gsi, bool level)
{
    struct fake_machine *m = machine;
    ck_assert_uint_lt(gsi, FAKE_LINES);
    m->lines[gsi] = level;
    m->line_changes[gsi]++;
}

static FAKE_UNUSED int fake_msi_new(void *machine, int *event_fd)
{
    struct fake_machine *m = machine;
    for (unsigned i = 0; i < m->vectors_limit; i++) {
        struct fake_vector *v = &m->vectors[i];
        if (v->used)
            continue;
        *v = (struct fake_vector){.used = true, .masked = true};
        v->event_fd = *event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ck_assert_int_ge(v->event_fd, 0);
        return (int)i;
    }
    return -ENOSPC;
}

// As irqfd does: an unmasked vector's count is consumed at once. True when there was one.
static FAKE_UNUSED bool fake_vector_fired(struct fake_machine *m, int vector)
{
    uint64_t count;
    return !m->vectors[vector].masked &&
           read(m->vectors[vector].event_fd, &count, sizeof(count)) > 0;
}

static FAKE_UNUSED int fake_msi_update(void *machine, int vector, uint64_t address, uint32_t data,
                                       bool masked)
{
    struct fake_machine *m = machine;
    ck_assert(vector >= 0 && vector < FAKE_VECTORS && m->vectors[vector].used);
    m->vectors[vector].updates++;
    if (!masked && address >> 20 != 0xfee)
        return -EINVAL;
    m->vectors[vector].address = address;
    m->vectors[vector].data = data;
    m->vectors[vector].masked = masked;
    return 0;
}

static FAKE_UNUSED void fake_msi_free(void *machine, int vector)
{
    struct fake_machine *m = machine;
    ck_assert(m->vectors[vector].used);
    close(m->vectors[vector].event_fd);
    m->vectors[vector].used = false;
}

static FAKE_UNUSED void fake_request(void *machine, enum machine_request request, int value)
{
    struct fake_machine *m = machine;
    m->request_count++;
    m->last_request = request;
    m->last_value = value;
}

static const struct machine_ops fake_machine_ops = {
    .irq_line = fake_irq_line,
    .msi_new = fake_msi_new,
    .msi_update = fake_msi_update,
    .msi_free = fake_msi_free,
    .request = fake_request,
};

static FAKE_UNUSED void fake_machine_open(struct fake_machine *m)
{
    memset(m, 0, sizeof(*m));
    m->bus.ops = &fake_machine_ops;
    m->bus.machine = m;
    m->vectors_limit = FAKE_VECTORS;
    ck_assert_int_eq(bus_init(&m->ports), 0);
    ck_assert_int_eq(bus_init(&m->mmio), 0);
}

// Everything that was taken must have been given back.
static FAKE_UNUSED void fake_machine_close(struct fake_machine *m)
{
    for (unsigned i = 0; i < FAKE_VECTORS; i++)
        ck_assert(!m->vectors[i].used);
    bus_destroy(&m->ports);
    bus_destroy(&m->mmio);
}

static FAKE_UNUSED uint64_t fake_read(struct bus *bus, uint64_t address, unsigned length)
{
    uint64_t value = 0;
    bus_read(bus, address, &value, length);
    return value;
}

static FAKE_UNUSED void fake_write(struct bus *bus, uint64_t address, unsigned length,
                                   uint64_t value)
{
    bus_write(bus, address, &value, length);
}

static FAKE_UNUSED uint64_t fake_in(struct fake_machine *m, uint64_t port, unsigned length)
{
    return fake_read(&m->ports, port, length);
}

static FAKE_UNUSED void fake_out(struct fake_machine *m, uint64_t port, unsigned length,
                                 uint64_t value)
{
    fake_write(&m->ports, port, length, value);
}
