// struct machine_ops on KVM.
#include "vmm/machine_internal.h"

static void op_irq_line(void *machine, uint32_t gsi, bool level)
{
    interrupts_line(&((struct machine *)machine)->interrupts, gsi, level);
}

static int op_msi_new(void *machine, int *event_fd)
{
    return interrupts_msi_new(&((struct machine *)machine)->interrupts, event_fd);
}

static int op_msi_update(void *machine, int vector, uint64_t address, uint32_t data, bool masked)
{
    return interrupts_msi_update(&((struct machine *)machine)->interrupts, vector, address, data,
                                 masked);
}

static void op_msi_free(void *machine, int vector)
{
    interrupts_msi_free(&((struct machine *)machine)->interrupts, vector);
}

static int op_doorbell_add(void *machine, const struct doorbell *doorbell)
{
    return interrupts_doorbell(&((struct machine *)machine)->interrupts, doorbell, true);
}

static void op_doorbell_remove(void *machine, const struct doorbell *doorbell)
{
    interrupts_doorbell(&((struct machine *)machine)->interrupts, doorbell, false);
}

static int op_memory_map(void *opaque, uint64_t gpa, void *hva, uint64_t size, bool read_only)
{
    struct machine *m = opaque;
    int rc = -ENOSPC;
    pthread_mutex_lock(&m->slots_lock);
    for (unsigned i = 0; i < MAPPED_SLOTS; i++) {
        if (m->slots[i].size)
            continue;
        rc = kvm_set_slot(&m->kvm, RAM_SLOTS + i, read_only ? KVM_MEM_READONLY : 0, gpa, hva, size);
        if (rc == 0)
            m->slots[i] = (struct mapped_slot){gpa, size};
        break;
    }
    pthread_mutex_unlock(&m->slots_lock);
    return rc;
}

static void op_memory_unmap(void *opaque, uint64_t gpa, uint64_t size)
{
    struct machine *m = opaque;
    pthread_mutex_lock(&m->slots_lock);
    for (unsigned i = 0; i < MAPPED_SLOTS; i++) {
        if (m->slots[i].size != size || m->slots[i].gpa != gpa)
            continue;
        kvm_set_slot(&m->kvm, RAM_SLOTS + i, 0, gpa, NULL, 0);
        m->slots[i].size = 0;
    }
    pthread_mutex_unlock(&m->slots_lock);
}

void machine_request(struct machine *m, enum machine_request request, int value)
{
    uint64_t none = 0;
    uint64_t wanted = ((uint64_t)request + 1) | (uint64_t)(uint32_t)value << 8;
    atomic_compare_exchange_strong(&m->request, &none, wanted);
    vcpus_close_gate(&m->vcpus);
    uv_async_send(m->wake_up);
}

static void op_request(void *machine, enum machine_request request, int value)
{
    machine_request(machine, request, value);
}

const struct machine_ops machine_bus_ops = {
    .irq_line = op_irq_line,
    .msi_new = op_msi_new,
    .msi_update = op_msi_update,
    .msi_free = op_msi_free,
    .doorbell_add = op_doorbell_add,
    .doorbell_remove = op_doorbell_remove,
    .memory_map = op_memory_map,
    .memory_unmap = op_memory_unmap,
    .request = op_request,
};
