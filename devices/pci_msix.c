// MSI-X (PCI 3.0, 6.8.2): table and pending bits in a BAR, control word in config space.
//
// The table is kept as the guest sees it, sixteen bytes a vector. Each vector is `live` while
// nothing masks it: MSI-X on, function mask off, the vector's own mask bit off. Only then the
// machine hears of address and data; otherwise it holds the vector masked and a notification stays
// in the vector's eventfd, which is what the pending array shows.

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/pci.h"

enum {
    CAPABILITY_MSIX = 0x11,
    CAPABILITY_LENGTH = 12,
    CONTROL = 2, // offset in the capability
    CONTROL_ENABLE = 0x8000,
    CONTROL_FUNCTION_MASK = 0x4000,
    VECTORS_LIMIT = 2048,

    ENTRY_SIZE = 16,
    ENTRY_ADDRESS = 0,
    ENTRY_DATA = 8,
    ENTRY_CONTROL = 12,
    ENTRY_MASKED = 1,
};

struct msix_vector {
    int handle;
    int event_fd; // belongs to the machine's vector
    bool live;    // the machine has it unmasked
};

// Lock order: a device's mutex or pci_bus.lock, then `lock`; msi_update is called under it.
struct pci_msix {
    struct machine_bus *machine;
    uint16_t capability; // config offset
    unsigned count;
    atomic_bool enabled;  // a copy of the control bit for notifications, which take no lock
    pthread_mutex_t lock; // guards the rest
    bool function_masked;
    bool warned;
    uint8_t *table; // count * ENTRY_SIZE
    struct msix_vector vectors[];
};

static uint16_t read_control(const struct pci_function *function)
{
    return bytes_get_u16(function->config + function->msix->capability + CONTROL);
}

static void drain(const struct msix_vector *vector)
{
    uint64_t count;
    struct pollfd poller = {.fd = vector->event_fd, .events = POLLIN};
    // The eventfd may be a blocking one: read only what is there.
    if (poll(&poller, 1, 0) == 1 && read(vector->event_fd, &count, sizeof(count)) < 0)
        log_debug("PCI: an MSI-X vector could not be drained: %s", strerror(errno));
}

static void raise_vector(const struct msix_vector *vector)
{
    const uint64_t one = 1;
    // EAGAIN can only mean that the counter is full, so the interrupt is pending anyway.
    if (write(vector->event_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_debug("PCI: an MSI-X vector could not be raised: %s", strerror(errno));
}

// Tells the machine what vector `index` is now. `changed`: the entry was written. Called with the
// lock held.
static void update_vector(struct pci_function *function, unsigned index, bool changed)
{
    struct pci_msix *msix = function->msix;
    struct msix_vector *vector = &msix->vectors[index];
    const uint8_t *entry = msix->table + (size_t)index * ENTRY_SIZE;
    bool live = atomic_load(&msix->enabled) && !msix->function_masked &&
                !(entry[ENTRY_CONTROL] & ENTRY_MASKED);
    if (live == vector->live && !(live && changed))
        return;
    int rc = msix->machine->ops->msi_update(msix->machine->machine, vector->handle,
                                            bytes_get_u64(entry + ENTRY_ADDRESS),
                                            bytes_get_u32(entry + ENTRY_DATA), !live);
    // A guest can write any address; the machine refuses what is no interrupt. Once in the log is
    // enough.
    if (rc < 0 && !msix->warned) {
        log_warning("PCI device '%s': MSI-X vector %u could not be set up: %s", function->name,
                    index, strerror(-rc));
        msix->warned = true;
    }
    // Not even by its message of before: the guest thinks that one gone, and couldn't mask it.
    if (rc < 0 && vector->live)
        msix->machine->ops->msi_update(msix->machine->machine, vector->handle, 0, 0, true);
    vector->live = live && rc == 0;
}

int pci_function_add_msix(struct pci_function *function, struct machine_bus *machine,
                          unsigned vectors, unsigned bar, uint32_t table_offset,
                          uint32_t pending_offset)
{
    if (vectors == 0 || vectors > VECTORS_LIMIT || bar >= PCI_BARS || table_offset % 8 ||
        pending_offset % 8 || function->msix)
        return -EINVAL;
    int rc = -ENOMEM;
    struct pci_msix *msix = calloc(1, sizeof(*msix) + vectors * sizeof(msix->vectors[0]));
    if (!msix)
        return -ENOMEM;
    msix->machine = machine;
    msix->table = calloc(vectors, ENTRY_SIZE);
    if (!msix->table)
        goto fail;
    rc = -pthread_mutex_init(&msix->lock, NULL);
    if (rc < 0)
        goto fail;
    for (; msix->count < vectors; msix->count++) {
        struct msix_vector *vector = &msix->vectors[msix->count];
        vector->handle = machine->ops->msi_new(machine->machine, &vector->event_fd);
        rc = vector->handle;
        if (rc < 0)
            goto fail_vectors;
        msix->table[(size_t)msix->count * ENTRY_SIZE + ENTRY_CONTROL] = ENTRY_MASKED;
    }
    rc = -ENOSPC;
    msix->capability = pci_function_add_capability(function, CAPABILITY_MSIX, CAPABILITY_LENGTH);
    if (msix->capability == 0)
        goto fail_vectors;
    uint8_t *capability = function->config + msix->capability;
    bytes_put_u16(capability + CONTROL, (uint16_t)(vectors - 1));
    bytes_put_u32(capability + 4, table_offset | bar);
    bytes_put_u32(capability + 8, pending_offset | bar);
    bytes_put_u16(function->writable + msix->capability + CONTROL,
                  CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    function->msix = msix;
    return 0;

fail_vectors:
    while (msix->count > 0)
        machine->ops->msi_free(machine->machine, msix->vectors[--msix->count].handle);
    pthread_mutex_destroy(&msix->lock);
fail:
    free(msix->table);
    free(msix);
    return rc;
}

void pci_msix_free(struct pci_function *function)
{
    struct pci_msix *msix = function->msix;
    if (!msix)
        return;
    for (unsigned i = 0; i < msix->count; i++)
        msix->machine->ops->msi_free(msix->machine->machine, msix->vectors[i].handle);
    pthread_mutex_destroy(&msix->lock);
    free(msix->table);
    free(msix);
    function->msix = NULL;
}

void pci_msix_control_written(struct pci_function *function)
{
    struct pci_msix *msix = function->msix;
    uint16_t control = read_control(function);
    bool enabled = control & CONTROL_ENABLE;
    bool function_masked = control & CONTROL_FUNCTION_MASK;
    pthread_mutex_lock(&msix->lock);
    bool was_enabled = atomic_load(&msix->enabled);
    if (enabled != was_enabled || function_masked != msix->function_masked) {
        atomic_store(&msix->enabled, enabled);
        msix->function_masked = function_masked;
        for (unsigned i = 0; i < msix->count; i++) {
            update_vector(function, i, false);
            // What was pending when the driver switched MSI-X off must not surprise the next one.
            if (was_enabled && !enabled)
                drain(&msix->vectors[i]);
        }
    }
    pthread_mutex_unlock(&msix->lock);
}

void pci_msix_reset(struct pci_function *function)
{
    struct pci_msix *msix = function->msix;
    pthread_mutex_lock(&msix->lock);
    atomic_store(&msix->enabled, false);
    msix->function_masked = false;
    memset(msix->table, 0, (size_t)msix->count * ENTRY_SIZE);
    for (unsigned i = 0; i < msix->count; i++) {
        msix->table[(size_t)i * ENTRY_SIZE + ENTRY_CONTROL] = ENTRY_MASKED;
        update_vector(function, i, false);
        drain(&msix->vectors[i]);
    }
    pthread_mutex_unlock(&msix->lock);
}

uint64_t pci_msix_table_read(struct pci_function *function, uint64_t offset, unsigned length)
{
    struct pci_msix *msix = function->msix;
    uint64_t value = 0, size = (uint64_t)msix->count * ENTRY_SIZE;
    pthread_mutex_lock(&msix->lock);
    for (unsigned i = 0; i < length && i < 8; i++) {
        bool inside = offset < size && i < size - offset;
        value |= (uint64_t)(inside ? msix->table[offset + i] : 0xff) << (8 * i);
    }
    pthread_mutex_unlock(&msix->lock);
    return value;
}

// The bits of byte `position` of an entry that the guest may write.
static uint8_t entry_writable(unsigned position)
{
    if (position == ENTRY_ADDRESS)
        return 0xfc; // messages are double words
    if (position < ENTRY_CONTROL)
        return 0xff;
    return position == ENTRY_CONTROL ? ENTRY_MASKED : 0;
}

void pci_msix_table_write(struct pci_function *function, uint64_t offset, unsigned length,
                          uint64_t value)
{
    struct pci_msix *msix = function->msix;
    uint64_t size = (uint64_t)msix->count * ENTRY_SIZE;
    if (offset >= size || length == 0 || length > 8)
        return;
    if (length > size - offset)
        length = (unsigned)(size - offset);
    pthread_mutex_lock(&msix->lock);
    for (unsigned i = 0; i < length; i++) {
        uint8_t mask = entry_writable((offset + i) % ENTRY_SIZE);
        uint8_t *byte = &msix->table[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | ((value >> (8 * i)) & mask));
    }
    for (uint64_t entry = offset / ENTRY_SIZE; entry <= (offset + length - 1) / ENTRY_SIZE; entry++)
        update_vector(function, (unsigned)entry, true);
    pthread_mutex_unlock(&msix->lock);
}

// The pending bits of vectors [8 * index, 8 * index + 8).
static uint8_t read_pending_byte(const struct pci_msix *msix, uint64_t index)
{
    if (index >= (msix->count + 7) / 8)
        return 0;
    struct pollfd pollers[8];
    unsigned first = (unsigned)index * 8, count = 0;
    while (count < 8 && first + count < msix->count) {
        pollers[count] =
            (struct pollfd){.fd = msix->vectors[first + count].event_fd, .events = POLLIN};
        count++;
    }
    if (poll(pollers, count, 0) < 0)
        return 0;
    uint8_t bits = 0;
    for (unsigned i = 0; i < count; i++)
        // A live vector's eventfd is on its way to the interrupt controller, not pending.
        if ((pollers[i].revents & POLLIN) && !msix->vectors[first + i].live)
            bits |= (uint8_t)(1 << i);
    return bits;
}

uint64_t pci_msix_pending_read(struct pci_function *function, uint64_t offset, unsigned length)
{
    struct pci_msix *msix = function->msix;
    uint64_t value = 0;
    pthread_mutex_lock(&msix->lock);
    for (unsigned i = 0; i < length && i < 8; i++)
        value |= (uint64_t)read_pending_byte(msix, offset + i) << (8 * i);
    pthread_mutex_unlock(&msix->lock);
    return value;
}

void pci_msix_notify(struct pci_function *function, unsigned index)
{
    const struct pci_msix *msix = function->msix;
    if (msix && index < msix->count && atomic_load(&msix->enabled))
        raise_vector(&msix->vectors[index]);
}

bool pci_msix_enabled(const struct pci_function *function)
{
    return function->msix && atomic_load(&function->msix->enabled);
}

// State: the number of vectors, then table and pending bits as blobs. The control word is in the
// function's config space.

struct msix_state {
    uint16_t vectors;
};

static const struct state_field msix_fields[] = {
    STATE_FIELD(STATE_U16, struct msix_state, vectors),
    {0},
};
static const struct state_section msix_section = {
    .name = "pci-msix", .version = 1, .fields = msix_fields};

void pci_msix_save(struct pci_function *function, struct byte_writer *writer)
{
    struct pci_msix *msix = function->msix;
    const struct msix_state state = {.vectors = (uint16_t)msix->count};
    uint8_t pending[VECTORS_LIMIT / 8];
    size_t pending_size = (msix->count + 7) / 8;
    pthread_mutex_lock(&msix->lock);
    for (size_t i = 0; i < pending_size; i++)
        pending[i] = read_pending_byte(msix, i);
    state_section_save(&msix_section, &state, writer);
    byte_writer_blob(writer, msix->table, (size_t)msix->count * ENTRY_SIZE);
    byte_writer_blob(writer, pending, pending_size);
    pthread_mutex_unlock(&msix->lock);
}

int pci_msix_load(struct pci_function *function, struct byte_reader *reader, struct error *err)
{
    struct pci_msix *msix = function->msix;
    struct msix_state state = {0};
    int rc = state_section_load(&msix_section, &state, reader, err);
    if (rc < 0)
        return rc;
    size_t table_size, pending_size, limit = (size_t)msix->count * ENTRY_SIZE;
    const uint8_t *table = byte_reader_blob(reader, limit, &table_size);
    const uint8_t *pending = byte_reader_blob(reader, (msix->count + 7) / 8, &pending_size);
    if (!table || !pending || state.vectors != msix->count || table_size != limit ||
        pending_size != (msix->count + 7) / 8)
        return error_set(err, EPROTO, "the MSI-X state of PCI device '%s' has another size",
                         function->name);
    uint16_t control = read_control(function);
    pthread_mutex_lock(&msix->lock);
    for (size_t i = 0; i < limit; i++)
        msix->table[i] = table[i] & entry_writable(i % ENTRY_SIZE);
    atomic_store(&msix->enabled, (control & CONTROL_ENABLE) != 0);
    msix->function_masked = control & CONTROL_FUNCTION_MASK;
    for (unsigned i = 0; i < msix->count; i++) {
        drain(&msix->vectors[i]);
        update_vector(function, i, true);
        if (pending[i / 8] & (1 << (i % 8)) && atomic_load(&msix->enabled))
            raise_vector(&msix->vectors[i]);
    }
    pthread_mutex_unlock(&msix->lock);
    return 0;
}
