#include "vmm/interrupts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/layout.h"

enum { PIC_PINS = 16, FIRST_VECTOR_GSI = LAYOUT_IOAPIC_PINS, PIT_IOAPIC_PIN = 2 };

static struct kvm_irq_routing_entry pin_route(uint32_t gsi, uint32_t chip, uint32_t pin)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

// Writes the whole table. Called with the lock held.
static int write_routes(struct interrupts *irqs)
{
    unsigned most = LAYOUT_IOAPIC_PINS + PIC_PINS + irqs->vector_count;
    struct kvm_irq_routing *table = calloc(1, sizeof(*table) + most * sizeof(table->entries[0]));
    if (!table)
        return -ENOMEM;
    for (uint32_t gsi = 0; gsi < LAYOUT_IOAPIC_PINS; gsi++) {
        if (gsi < PIC_PINS && gsi != 2) // pin 2 of the first PIC is the second one
            table->entries[table->nr++] =
                pin_route(gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8);
        // The timer's line reaches the IOAPIC at pin 2 (as the MADT says); nothing else drives
        // that.
        if (gsi == 0)
            table->entries[table->nr++] = pin_route(0, KVM_IRQCHIP_IOAPIC, PIT_IOAPIC_PIN);
        else if (gsi != PIT_IOAPIC_PIN)
            table->entries[table->nr++] = pin_route(gsi, KVM_IRQCHIP_IOAPIC, gsi);
    }
    for (unsigned i = 0; i < irqs->vector_count; i++) {
        const struct msi_vector *v = &irqs->vectors[i];
        if (!v->used || !v->routed)
            continue;
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = FIRST_VECTOR_GSI + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)v->address,
                      .address_hi = (uint32_t)(v->address >> 32),
                      .data = v->data},
        };
    }
    int rc = kvm_vm_ioctl(irqs->kvm, KVM_SET_GSI_ROUTING, table);
    free(table);
    return rc;
}

static int set_irqfd(struct interrupts *irqs, int vector, bool attach)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)irqs->vectors[vector].event_fd,
        .gsi = FIRST_VECTOR_GSI + (uint32_t)vector,
        .flags = attach ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };
    int rc = kvm_vm_ioctl(irqs->kvm, KVM_IRQFD, &irqfd);
    if (rc == 0)
        irqs->vectors[vector].attached = attach;
    return rc;
}

int interrupts_init(struct interrupts *irqs, const struct kvm *kvm, struct error *err)
{
    *irqs = (struct interrupts){.kvm = kvm};
    pthread_mutex_init(&irqs->lock, NULL);
    int rc = write_routes(irqs);
    if (rc < 0) {
        interrupts_destroy(irqs);
        return error_set_errno(err, -rc, "setting the VM's interrupt routes");
    }
    return 0;
}

void interrupts_destroy(struct interrupts *irqs)
{
    for (unsigned i = 0; i < irqs->vector_count; i++)
        interrupts_msi_free(irqs, (int)i);
    free(irqs->vectors);
    pthread_mutex_destroy(&irqs->lock);
}

void interrupts_line(struct interrupts *irqs, uint32_t gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};
    int rc = kvm_vm_ioctl(irqs->kvm, KVM_IRQ_LINE, &line);
    if (rc < 0)
        log_error("setting interrupt line %u: %s", gsi, strerror(-rc));
}

// The index of a free vector, growing the table where there's none; -errno. Called with the lock
// held.
static int take_vector(struct interrupts *irqs)
{
    for (unsigned i = 0; i < irqs->vector_count; i++)
        if (!irqs->vectors[i].used)
            return (int)i;
    if (irqs->vector_count == INTERRUPT_VECTORS)
        return -ENOSPC;
    unsigned count = irqs->vector_count ? 2 * irqs->vector_count : 32;
    struct msi_vector *grown = realloc(irqs->vectors, count * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    memset(grown + irqs->vector_count, 0, (count - irqs->vector_count) * sizeof(*grown));
    int first = (int)irqs->vector_count;
    irqs->vectors = grown;
    irqs->vector_count = count;
    return first;
}

int interrupts_msi_new(struct interrupts *irqs, int *event_fd)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    pthread_mutex_lock(&irqs->lock);
    int vector = take_vector(irqs);
    if (vector >= 0)
        irqs->vectors[vector] = (struct msi_vector){.used = true, .event_fd = fd};
    pthread_mutex_unlock(&irqs->lock);
    if (vector < 0)
        close(fd);
    else
        *event_fd = fd;
    return vector;
}

int interrupts_msi_update(struct interrupts *irqs, int vector, uint64_t address, uint32_t data,
                          bool masked)
{
    pthread_mutex_lock(&irqs->lock);
    struct msi_vector *v = &irqs->vectors[vector];
    int rc = 0;
    if (masked) {
        // What the device raises from now on stays in the eventfd until the guest unmasks.
        if (v->attached)
            rc = set_irqfd(irqs, vector, false);
    } else {
        if (!v->routed || v->address != address || v->data != data) {
            struct msi_vector before = *v;
            v->address = address;
            v->data = data;
            v->routed = true;
            rc = write_routes(irqs);
            if (rc < 0)
                *v = before; // the table in KVM still has the old message
        }
        // Attaching delivers what is pending: KVM looks at the eventfd when it takes it.
        if (rc == 0 && !v->attached)
            rc = set_irqfd(irqs, vector, true);
    }
    pthread_mutex_unlock(&irqs->lock);
    return rc;
}

void interrupts_msi_free(struct interrupts *irqs, int vector)
{
    pthread_mutex_lock(&irqs->lock);
    struct msi_vector *v = &irqs->vectors[vector];
    if (v->used) {
        if (v->attached)
            set_irqfd(irqs, vector, false);
        close(v->event_fd);
        *v = (struct msi_vector){0}; // its old route is overwritten with the next table
    }
    pthread_mutex_unlock(&irqs->lock);
}

int interrupts_doorbell(struct interrupts *irqs, const struct doorbell *doorbell, bool add)
{
    struct kvm_ioeventfd event = {
        .datamatch = doorbell->value,
        .addr = doorbell->address,
        .len = doorbell->length,
        .fd = doorbell->event_fd,
        .flags = (doorbell->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (doorbell->port ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_vm_ioctl(irqs->kvm, KVM_IOEVENTFD, &event);
}
