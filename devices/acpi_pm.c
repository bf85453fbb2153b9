#include "devices/acpi_pm.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/state.h"

enum {
    // PM1 status and enable (ACPI 6.4, 4.8.3.1).
    PM1_TIMER = 1 << 0,
    PM1_GLOBAL_LOCK = 1 << 5,
    PM1_POWER_BUTTON = 1 << 8,
    PM1_RTC = 1 << 10,
    PM1_WAKE = 1 << 15, // status only
    PM1_STATUS_BITS = PM1_TIMER | PM1_GLOBAL_LOCK | PM1_POWER_BUTTON | PM1_RTC | PM1_WAKE,
    PM1_ENABLE_BITS = PM1_TIMER | PM1_GLOBAL_LOCK | PM1_POWER_BUTTON | PM1_RTC,

    // PM1 control (4.8.3.2).
    PM1_SCI_ENABLED = 1 << 0,
    PM1_SLEEP_TYPE_SHIFT = 10,
    PM1_SLEEP_TYPE_MASK = 7 << PM1_SLEEP_TYPE_SHIFT,
    PM1_SLEEP_ENABLE = 1 << 13,
    PM1_CONTROL_STORED = PM1_SLEEP_TYPE_MASK | 1 << 1,
};
// TMR_STS is set when the timer's top bit changes; the FADT says that it has 32 bits.
#define TIMER_HALF (UINT64_C(1) << 31)

struct acpi_pm {
    struct device device;
    struct machine_bus *machine;
    struct bus *ports;
    struct acpi_pm_config config;
    pthread_mutex_t lock; // guards everything below

    uint16_t pm1_status, pm1_enable, pm1_control;
    uint16_t gpe0_status, gpe0_enable;
    uint64_t timer_base;   // added to the host's clock, in ticks
    uint64_t timer_halves; // how often the top bit had changed when TMR_STS was cleared last

    uint64_t saved_timer; // ticks at the save, only meaningful in a state
    bool sci_level;
};

static uint64_t host_ticks(void)
{
    return (uint64_t)((unsigned __int128)clock_monotonic_ns() * ACPI_PM_TIMER_HZ / NSEC_PER_SEC);
}

static uint64_t timer_ticks(const struct acpi_pm *pm)
{
    return host_ticks() + pm->timer_base;
}

// TMR_STS is computed when it is looked at: the timer's interrupt is off in every guest that has a
// better timer, so no host timer is kept for it.
static uint16_t read_status(const struct acpi_pm *pm)
{
    bool carried = timer_ticks(pm) / TIMER_HALF != pm->timer_halves;
    return pm->pm1_status | (carried ? PM1_TIMER : 0);
}

// Called with the lock held after each change.
static void update_sci(struct acpi_pm *pm)
{
    bool level = (pm->pm1_status & pm->pm1_enable) || (pm->gpe0_status & pm->gpe0_enable);
    if (level == pm->sci_level)
        return;
    pm->sci_level = level;
    pm->machine->ops->irq_line(pm->machine->machine, pm->config.sci_gsi, level);
}

// The blocks as bytes, since any width may come at any offset.

static void clear_status(struct acpi_pm *pm, uint16_t bits)
{
    pm->pm1_status &= (uint16_t)~bits;
    if (bits & PM1_TIMER)
        pm->timer_halves = timer_ticks(pm) / TIMER_HALF;
}

static uint8_t read_byte(const struct acpi_pm *pm, unsigned offset, uint64_t ticks)
{
    switch (offset) {
    case ACPI_PM1_EVENT:
        return (uint8_t)read_status(pm);
    case ACPI_PM1_EVENT + 1:
        return (uint8_t)(read_status(pm) >> 8);
    case ACPI_PM1_EVENT + 2:
        return (uint8_t)pm->pm1_enable;
    case ACPI_PM1_EVENT + 3:
        return (uint8_t)(pm->pm1_enable >> 8);
    case ACPI_PM1_CONTROL:
        return (uint8_t)(pm->pm1_control | PM1_SCI_ENABLED);
    case ACPI_PM1_CONTROL + 1:
        return (uint8_t)(pm->pm1_control >> 8);
    case ACPI_PM_TIMER:
    case ACPI_PM_TIMER + 1:
    case ACPI_PM_TIMER + 2:
    case ACPI_PM_TIMER + 3:
        return (uint8_t)(ticks >> (8 * (offset - ACPI_PM_TIMER)));
    default:
        return 0; // reserved
    }
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned length)
{
    struct acpi_pm *pm = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&pm->lock);
    uint64_t ticks = timer_ticks(pm); // one moment for all bytes of the timer
    for (unsigned i = 0; i < length; i++)
        value |= (uint64_t)read_byte(pm, (unsigned)offset + i, ticks) << (8 * i);
    pthread_mutex_unlock(&pm->lock);
    return value;
}

// `value` replaces the low or the high byte of *word.
static void set_byte(uint16_t *word, bool high, uint8_t value)
{
    *word = high ? (uint16_t)((*word & 0x00ff) | value << 8) : (uint16_t)((*word & 0xff00) | value);
}

// Returns true when the guest asks for S5.
static bool write_byte(struct acpi_pm *pm, unsigned offset, uint8_t value)
{
    switch (offset) {
    case ACPI_PM1_EVENT:
        clear_status(pm, value);
        break;
    case ACPI_PM1_EVENT + 1:
        clear_status(pm, (uint16_t)(value << 8));
        break;
    case ACPI_PM1_EVENT + 2:
    case ACPI_PM1_EVENT + 3:
        set_byte(&pm->pm1_enable, offset & 1, value);
        pm->pm1_enable &= PM1_ENABLE_BITS;
        break;
    case ACPI_PM1_CONTROL:
        set_byte(&pm->pm1_control, false, value);
        pm->pm1_control &= PM1_CONTROL_STORED;
        break;
    case ACPI_PM1_CONTROL + 1: {
        uint16_t control = pm->pm1_control;
        set_byte(&control, true, value);
        pm->pm1_control = control & PM1_CONTROL_STORED; // SLP_EN reads as 0
        return (control & PM1_SLEEP_ENABLE) &&
               (control & PM1_SLEEP_TYPE_MASK) >> PM1_SLEEP_TYPE_SHIFT == ACPI_SLEEP_TYPE_S5;
    }
    default: // the timer is read-only, the rest reserved
        break;
    }
    return false;
}

static void pm_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct acpi_pm *pm = opaque;
    bool power_off = false;
    pthread_mutex_lock(&pm->lock);
    for (unsigned i = 0; i < length; i++)
        power_off |= write_byte(pm, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
    if (power_off)
        pm->machine->ops->request(pm->machine->machine, MACHINE_REQUEST_POWER_OFF, 0);
}

static const struct bus_handler pm_handler = {.read = pm_read, .write = pm_write};

static uint64_t gpe0_read(void *opaque, uint64_t offset, unsigned length)
{
    struct acpi_pm *pm = opaque;
    pthread_mutex_lock(&pm->lock);
    uint32_t block = pm->gpe0_status | (uint32_t)pm->gpe0_enable << 16;
    pthread_mutex_unlock(&pm->lock);
    return block >> (8 * offset);
}

static void gpe0_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct acpi_pm *pm = opaque;
    pthread_mutex_lock(&pm->lock);
    for (unsigned i = 0; i < length; i++) {
        unsigned at = (unsigned)offset + i;
        uint8_t byte = (uint8_t)(value >> (8 * i));
        if (at < 2)
            pm->gpe0_status &= (uint16_t) ~(byte << (8 * at));
        else
            set_byte(&pm->gpe0_enable, at & 1, byte);
    }
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

static const struct bus_handler gpe0_handler = {.read = gpe0_read, .write = gpe0_write};

void acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->pm1_status |= PM1_POWER_BUTTON;
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned event)
{
    if (event >= ACPI_GPE0_EVENTS)
        return;
    pthread_mutex_lock(&pm->lock);
    pm->gpe0_status |= (uint16_t)(1 << event);
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

// Life and state

static struct acpi_pm *from_device(struct device *device)
{
    return (struct acpi_pm *)device; // the first member
}

struct device *acpi_pm_device(struct acpi_pm *pm)
{
    return &pm->device;
}

static void pm_reset(struct device *device)
{
    struct acpi_pm *pm = from_device(device);
    pthread_mutex_lock(&pm->lock);
    pm->pm1_status = pm->pm1_enable = pm->pm1_control = 0;
    pm->gpe0_status = pm->gpe0_enable = 0;
    // The timer starts at 0, so that its first carry is as far away as it can be.
    pm->timer_base = 0 - host_ticks();
    pm->timer_halves = 0;
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

static const struct state_field fields[] = {
    STATE_FIELD(STATE_U16, struct acpi_pm, pm1_status),
    STATE_FIELD(STATE_U16, struct acpi_pm, pm1_enable),
    STATE_FIELD(STATE_U16, struct acpi_pm, pm1_control),
    STATE_FIELD(STATE_U16, struct acpi_pm, gpe0_status),
    STATE_FIELD(STATE_U16, struct acpi_pm, gpe0_enable),
    STATE_FIELD(STATE_U64, struct acpi_pm, saved_timer),
    STATE_FIELD(STATE_U64, struct acpi_pm, timer_halves),
    {0},
};
static const struct state_section section = {.name = "acpi-pm", .version = 1, .fields = fields};

static void pm_save(struct device *device, struct byte_writer *writer)
{
    struct acpi_pm *pm = from_device(device);
    pthread_mutex_lock(&pm->lock);
    pm->saved_timer = timer_ticks(pm);
    state_section_save(&section, pm, writer);
    pthread_mutex_unlock(&pm->lock);
}

static int pm_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct acpi_pm *pm = from_device(device);
    pthread_mutex_lock(&pm->lock);
    int rc = state_section_load(&section, pm, reader, err);
    if (rc == 0) {
        pm->pm1_status &= PM1_STATUS_BITS;
        pm->pm1_enable &= PM1_ENABLE_BITS;
        pm->pm1_control &= PM1_CONTROL_STORED;
        // The timer goes on from where it was: another host's clock has another origin.
        pm->timer_base = pm->saved_timer - host_ticks();
        pm->sci_level = (pm->pm1_status & pm->pm1_enable) || (pm->gpe0_status & pm->gpe0_enable);
        pm->machine->ops->irq_line(pm->machine->machine, pm->config.sci_gsi, pm->sci_level);
    }
    pthread_mutex_unlock(&pm->lock);
    return rc;
}

static void pm_destroy(struct device *device)
{
    struct acpi_pm *pm = from_device(device);
    bus_remove(pm->ports, pm->config.pm_port);
    bus_remove(pm->ports, pm->config.gpe0_port);
    pthread_mutex_destroy(&pm->lock);
    free(pm);
}

static const struct device_ops ops = {
    .kind = "acpi-pm",
    .reset = pm_reset,
    .save = pm_save,
    .load = pm_load,
    .destroy = pm_destroy,
};

int acpi_pm_create(struct acpi_pm **pm, struct machine_bus *machine, struct bus *ports,
                   const struct acpi_pm_config *config, struct error *err)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, ENOMEM, "ACPI registers: no memory");
    p->device.ops = &ops;
    snprintf(p->device.id, sizeof(p->device.id), "%s", config->id);
    p->machine = machine;
    p->ports = ports;
    p->config = *config;
    pthread_mutex_init(&p->lock, NULL);
    const struct bus_range pm_range = {.start = config->pm_port,
                                       .size = ACPI_PM_LENGTH,
                                       .handler = &pm_handler,
                                       .opaque = p,
                                       .name = "ACPI PM1 and timer"};
    const struct bus_range gpe0_range = {.start = config->gpe0_port,
                                         .size = ACPI_GPE0_LENGTH,
                                         .handler = &gpe0_handler,
                                         .opaque = p,
                                         .name = "ACPI GPE0"};
    int rc = bus_add(ports, &pm_range);
    if (rc < 0)
        goto fail;
    rc = bus_add(ports, &gpe0_range);
    if (rc < 0)
        goto fail_pm;
    pm_reset(&p->device);
    *pm = p;
    return 0;

fail_pm:
    bus_remove(ports, config->pm_port);
fail:
    pthread_mutex_destroy(&p->lock);
    free(p);
    return error_set_errno(err, -rc, "ACPI registers: ports 0x%x and 0x%x", config->pm_port,
                           config->gpe0_port);
}
