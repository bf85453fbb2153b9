#include "tests/unit/fake_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fake machine: %s\n", what);
    abort();
}

static void irq_line(void *machine, uint32_t gsi, bool level)
{
}

static int msi_new(void *machine, int *event_fd)
{
    struct fake_machine *m = machine;
    int found = -ENOSPC;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < FAKE_VECTORS && found < 0; i++) {
        if (m->vectors[i].used)
            continue;
        m->vectors[i] = (struct fake_vector){
            .used = true, .masked = true, .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
        *event_fd = m->vectors[i].event_fd;
        found = i;
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

static int msi_update(void *machine, int vector, uint64_t address, uint32_t data, bool masked)
{
    struct fake_machine *m = machine;
    pthread_mutex_lock(&m->lock);
    struct fake_vector *v = &m->vectors[vector];
    must(v->used, "a vector that doesn't exist was updated");
    v->address = address;
    v->data = data;
    v->masked = masked;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static void msi_free(void *machine, int vector)
{
    struct fake_machine *m = machine;
    pthread_mutex_lock(&m->lock);
    must(m->vectors[vector].used, "a vector was freed twice");
    close(m->vectors[vector].event_fd);
    m->vectors[vector].used = false;
    pthread_mutex_unlock(&m->lock);
}

static int doorbell_add(void *machine, const struct doorbell *doorbell)
{
    struct fake_machine *m = machine;
    int rc = 0;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->doorbell_count; i++)
        if (m->doorbells[i].address == doorbell->address)
            rc = -EEXIST;
    if (m->refuse_doorbells)
        rc = -ENOSPC;
    if (rc == 0) {
        must(m->doorbell_count < FAKE_DOORBELLS, "too many doorbells");
        m->doorbells[m->doorbell_count++] = *doorbell;
        m->doorbell_adds++;
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static void doorbell_remove(void *machine, const struct doorbell *doorbell)
{
    struct fake_machine *m = machine;
    pthread_mutex_lock(&m->lock);
    unsigned i = 0;
    while (i < m->doorbell_count && m->doorbells[i].address != doorbell->address)
        i++;
    must(i < m->doorbell_count, "a doorbell was removed that isn't there");
    m->doorbells[i] = m->doorbells[--m->doorbell_count];
    m->doorbell_removes++;
    pthread_mutex_unlock(&m->lock);
}

static void request(void *machine, enum machine_request what, int value)
{
}

static const struct machine_ops fake_ops = {
    .irq_line = irq_line,
    .msi_new = msi_new,
    .msi_update = msi_update,
    .msi_free = msi_free,
    .doorbell_add = doorbell_add,
    .doorbell_remove = doorbell_remove,
    .request = request,
};

void fake_machine_init(struct fake_machine *m, uint64_t ram_size)
{
    memset(m, 0, sizeof(*m));
    pthread_mutex_init(&m->lock, NULL);
    m->ram_size = ram_size;
    m->ram = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(m->ram != MAP_FAILED, "no RAM");
    guest_memory_init(&m->memory);
    must(guest_memory_add(&m->memory, 0, m->ram, ram_size) == 0, "RAM");
    m->bus = (struct machine_bus){.ops = &fake_ops, .machine = m, .memory = &m->memory};
    must(bus_init(&m->ports) == 0 && bus_init(&m->mmio) == 0, "buses");
    must(pci_bus_init(&m->pci, &m->bus, &m->ports, &m->mmio, FAKE_ECAM, FAKE_PCI_WINDOW,
                      FAKE_PCI_WINDOW + 0x0fffffff, NULL) == 0,
         "PCI bus");
    must(io_thread_start(&m->thread, "test-io") == 0, "I/O thread");
}

void fake_machine_destroy(struct fake_machine *m)
{
    io_thread_stop(m->thread);
    pci_bus_destroy(&m->pci);
    bus_destroy(&m->ports);
    bus_destroy(&m->mmio);
    must(m->doorbell_count == 0, "a doorbell outlived its device");
    for (unsigned i = 0; i < FAKE_VECTORS; i++)
        must(!m->vectors[i].used, "a vector outlived its device");
    guest_memory_destroy(&m->memory);
    munmap(m->ram, m->ram_size);
    pthread_mutex_destroy(&m->lock);
}

uint64_t fake_machine_read(struct fake_machine *m, uint64_t address, unsigned length)
{
    uint64_t value = 0;
    bus_read(&m->mmio, address, &value, length);
    return value;
}

void fake_machine_write(struct fake_machine *m, uint64_t address, unsigned length, uint64_t value)
{
    int event_fd = -1;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->doorbell_count && event_fd < 0; i++) {
        const struct doorbell *d = &m->doorbells[i];
        if (d->address == address && (d->length == 0 || d->length == length) &&
            (!d->match || d->value == value))
            event_fd = d->event_fd;
    }
    pthread_mutex_unlock(&m->lock);
    if (event_fd >= 0)
        eventfd_write(event_fd, 1);
    else
        bus_write(&m->mmio, address, &value, length);
}

uint32_t fake_machine_config_read(struct fake_machine *m, unsigned slot, unsigned offset,
                                  unsigned length)
{
    return (uint32_t)fake_machine_read(m, FAKE_ECAM + (slot << 15) + offset, length);
}

void fake_machine_config_write(struct fake_machine *m, unsigned slot, unsigned offset,
                               unsigned length, uint32_t value)
{
    fake_machine_write(m, FAKE_ECAM + (slot << 15) + offset, length, value);
}

int fake_machine_vector_fd(struct fake_machine *m, uint32_t data)
{
    int fd = -1;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < FAKE_VECTORS && fd < 0; i++)
        if (m->vectors[i].used && !m->vectors[i].masked && m->vectors[i].data == data)
            fd = m->vectors[i].event_fd;
    pthread_mutex_unlock(&m->lock);
    return fd;
}

static void nothing(void *opaque)
{
}

void fake_machine_settle(struct fake_machine *m)
{
    // What was ready is served in the turn of the loop in which the first call runs, before or
    // behind it; so it is over when the second runs.
    io_thread_call(m->thread, nothing, NULL);
    io_thread_call(m->thread, nothing, NULL);
}
