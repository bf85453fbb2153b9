#include "vmm/machine_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vmm/machine_clock.h"
#include "vmm/machine_internal.h"

enum { NAME_SIZE = 32, PART_LIMIT = 64 << 20, FLAG_OPTIONAL = 1 };

// ---- saving ----

// Opens a part; returns where its length goes.
static size_t begin_part(struct byte_writer *w, const char *name)
{
    byte_writer_string(w, name);
    byte_writer_u8(w, 0);
    byte_writer_u32(w, 0);
    return w->length;
}

static void end_part(struct byte_writer *w, size_t start)
{
    if (!w->failed)
        byte_writer_patch_u32(w, start - 4, (uint32_t)(w->length - start));
}

static int save_vcpus(struct machine *m, struct byte_writer *w, struct error *err)
{
    int rc = 0;
    struct vcpu_state state = {0};
    for (unsigned i = 0; i < m->vcpus.count && rc == 0; i++) {
        rc = vcpu_state_get(&state, &m->kvm, m->vcpus.list[i].fd, err);
        if (rc < 0) {
            error_prefix(err, "vCPU %u", i);
            break;
        }
        state.withheld_ns = cpu_time_total(&m->cpu_time, i);
        char name[NAME_SIZE];
        snprintf(name, sizeof(name), "vcpu%u", i);
        size_t start = begin_part(w, name);
        vcpu_state_save(&state, m->kvm.abilities.xsave_size, w);
        end_part(w, start);
    }
    vcpu_state_free(&state);
    return rc;
}

int machine_state_save(struct machine *m, struct byte_writer *w, struct error *err)
{
    struct machine_clock clock;
    struct irqchip_state irqchip;
    int rc = machine_clock_get(&clock, &m->vcpus, err);
    if (rc == 0)
        rc = irqchip_state_get(&irqchip, &m->kvm, err);
    if (rc < 0)
        return rc;
    size_t start = begin_part(w, "clock");
    machine_clock_save(&clock, w);
    end_part(w, start);
    start = begin_part(w, "irqchip");
    irqchip_state_save(&irqchip, w);
    end_part(w, start);
    rc = save_vcpus(m, w, err);
    if (rc < 0)
        return rc;
    for (struct device *d = m->devices; d; d = d->next) {
        if (!d->ops->save)
            continue;
        start = begin_part(w, d->id);
        d->ops->save(d, w);
        end_part(w, start);
    }
    byte_writer_string(w, "");
    return w->failed ? error_set_errno(err, ENOMEM, "saving the machine's state") : 0;
}

// ---- loading ----

// What has been loaded, so that nothing comes twice and nothing lacks.
struct progress {
    struct machine *machine;
    struct machine_clock clock;
    struct irqchip_state irqchip;
    struct vcpu_state *vcpus;
    bool have_clock, have_irqchip;
    bool have_vcpu[MACHINE_CPUS_LIMIT];
    unsigned devices; // loaded
};

static int load_once(bool *have, const char *name, struct error *err)
{
    if (*have)
        return error_set(err, EPROTO, "the part '%s' comes twice", name);
    *have = true;
    return 0;
}

static int load_vcpu(struct progress *p, const char *name, struct byte_reader *r, struct error *err)
{
    char expected[NAME_SIZE];
    for (unsigned i = 0; i < p->machine->vcpus.count; i++) {
        snprintf(expected, sizeof(expected), "vcpu%u", i);
        if (strcmp(name, expected) != 0)
            continue;
        int rc = load_once(&p->have_vcpu[i], name, err);
        return rc < 0 ? rc
                      : vcpu_state_load(&p->vcpus[i], p->machine->kvm.abilities.xsave_size, r, err);
    }
    return -ENOENT;
}

static int load_device(struct progress *p, const char *name, struct byte_reader *r,
                       struct error *err)
{
    for (struct device *d = p->machine->devices; d; d = d->next) {
        if (!d->ops->load || strcmp(d->id, name) != 0)
            continue;
        int rc = d->ops->load(d, r, err);
        p->devices++;
        return rc < 0 ? error_prefix(err, "device '%s'", name) : 0;
    }
    return -ENOENT;
}

static int load_part(struct progress *p, const char *name, bool optional, struct byte_reader *r,
                     struct error *err)
{
    int rc;
    if (strcmp(name, "clock") == 0) {
        rc = load_once(&p->have_clock, name, err);
        if (rc == 0)
            rc = machine_clock_load(&p->clock, r, err);
    } else if (strcmp(name, "irqchip") == 0) {
        rc = load_once(&p->have_irqchip, name, err);
        if (rc == 0)
            rc = irqchip_state_load(&p->irqchip, r, err);
    } else {
        rc = load_vcpu(p, name, r, err);
        if (rc == -ENOENT)
            rc = load_device(p, name, r, err);
        if (rc == -ENOENT) {
            if (optional)
                return 0;
            return error_set(err, ENOTSUP, "the state has the part '%s', which this machine lacks",
                             name);
        }
    }
    if (rc == 0 && byte_reader_left(r) != 0)
        return error_set(err, EPROTO, "the part '%s' has %zu bytes too many", name,
                         byte_reader_left(r));
    return rc;
}

static int load_parts(struct progress *p, struct byte_reader *r, struct error *err)
{
    for (;;) {
        char name[NAME_SIZE];
        if (!byte_reader_string(r, name, sizeof(name)))
            return error_set(err, EPROTO, "the machine's state is cut off");
        if (!name[0])
            return 0;
        bool optional = byte_reader_u8(r) & FLAG_OPTIONAL;
        size_t length;
        const uint8_t *bytes = byte_reader_blob(r, PART_LIMIT, &length);
        if (r->failed)
            return error_set(err, EPROTO, "the part '%s' is cut off or too long", name);
        struct byte_reader part;
        byte_reader_init(&part, bytes, length);
        int rc = load_part(p, name, optional, &part, err);
        if (rc < 0)
            return rc;
    }
}

static int check_complete(const struct progress *p, struct error *err)
{
    unsigned wanted = 0;
    for (const struct device *d = p->machine->devices; d; d = d->next)
        wanted += d->ops->load != NULL;
    for (unsigned i = 0; i < p->machine->vcpus.count; i++)
        if (!p->have_vcpu[i])
            return error_set(err, EPROTO, "the state lacks the part 'vcpu%u'", i);
    if (!p->have_clock || !p->have_irqchip)
        return error_set(err, EPROTO, "the state lacks the part '%s'",
                         p->have_clock ? "irqchip" : "clock");
    if (p->devices != wanted)
        return error_set(err, EPROTO, "the state has %u devices, the machine %u", p->devices,
                         wanted);
    return 0;
}

// Into KVM. Clocks before vCPUs: a vCPU's TSC-deadline timer is armed against the TSC as it is
// then.
static int put(struct progress *p, bool advance, struct error *err)
{
    struct machine *m = p->machine;
    int rc = irqchip_state_put(&p->irqchip, &m->kvm, err);
    if (rc == 0)
        rc = machine_clock_put(&p->clock, &m->vcpus, advance, err);
    for (unsigned i = 0; i < m->vcpus.count && rc == 0; i++) {
        // The TSC is the clock's to set, by one rule for all vCPUs.
        vcpu_state_forget_msr(&p->vcpus[i], MSR_IA32_TSC);
        cpu_time_restore(&m->cpu_time, i, p->vcpus[i].withheld_ns);
        unsigned refused;
        rc = vcpu_state_put(&p->vcpus[i], &m->kvm, m->vcpus.list[i].fd, &refused, err);
        if (rc < 0)
            error_prefix(err, "vCPU %u", i);
        else if (refused)
            log_warning("vCPU %u: this host's KVM refused %u MSRs of the state", i, refused);
    }
    return rc;
}

int machine_state_load(struct machine *m, struct byte_reader *r, bool advance, struct error *err)
{
    struct progress *p = calloc(1, sizeof(*p));
    if (p)
        p->vcpus = calloc(m->vcpus.count, sizeof(p->vcpus[0]));
    if (!p || !p->vcpus) {
        free(p);
        return error_set_errno(err, ENOMEM, "loading the machine's state");
    }
    p->machine = m;
    int rc = load_parts(p, r, err);
    if (rc == 0)
        rc = check_complete(p, err);
    if (rc == 0)
        rc = put(p, advance, err);
    for (unsigned i = 0; i < m->vcpus.count; i++)
        vcpu_state_free(&p->vcpus[i]);
    free(p->vcpus);
    free(p);
    return rc;
}
