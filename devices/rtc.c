#include "devices/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/state.h"

enum {
    PORTS = 2,
    PORT_INDEX = 0,
    PORT_DATA = 1,
    CMOS_SIZE = 128,

    REG_SECONDS = 0x00,
    REG_SECONDS_ALARM = 0x01,
    REG_MINUTES = 0x02,
    REG_MINUTES_ALARM = 0x03,
    REG_HOURS = 0x04,
    REG_HOURS_ALARM = 0x05,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
    REG_SHUTDOWN = 0x0f,
    REG_CENTURY = 0x32,

    A_UPDATING = 0x80,
    A_RATE = 0x0f,
    A_POWER_ON = 0x26, // 32768 Hz time base, 1024 Hz periodic rate
    B_SET = 0x80,
    B_ENABLES = 0x70, // periodic, alarm, update: the same bits as in register C
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,
    C_REQUEST = 0x80,
    C_PERIODIC = 0x40,
    C_ALARM = 0x20,
    C_UPDATE = 0x10,
    D_VALID = 0x80,

    HOURS_PM = 0x80,
    ALARM_ANY = 0xc0, // an alarm field with both bits set matches every value
    DAY_SECONDS = 86400,
    UPDATE_NS = 244000, // the update bit rises so long before a second ends
};

struct rtc {
    struct device device;
    struct machine_bus *machine;
    struct bus *ports;
    struct rtc_config config;
    int timer_fd;
    struct io_watch *watch;
    pthread_mutex_t lock; // guards everything below

    uint8_t index;
    // Registers and memory. The time fields are right only while SET holds the clock; otherwise
    // they are computed at each read.
    uint8_t cmos[CMOS_SIZE];
    int64_t offset; // seconds that the guest's clock is ahead of the host's
    // Up to where register C counts events: second of the guest's clock, periodic tick.
    int64_t seen_second;
    uint64_t seen_tick;

    uint64_t saved_offset; // `offset` as the state has it
    bool line_level;
    bool quiesced;
};

// Time of day

static int64_t guest_second(const struct rtc *rtc)
{
    return (int64_t)(clock_realtime_ns() / NSEC_PER_SEC) + rtc->offset;
}

static uint8_t encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hours(const struct rtc *rtc, int hours)
{
    if (rtc->cmos[REG_B] & B_24_HOURS)
        return encode(rtc, hours);
    return encode(rtc, hours % 12 ? hours % 12 : 12) | (hours >= 12 ? HOURS_PM : 0);
}

static int decode_hours(const struct rtc *rtc, uint8_t value)
{
    if (rtc->cmos[REG_B] & B_24_HOURS)
        return decode(rtc, value);
    return decode(rtc, value & ~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

// Puts the time into the registers.
static void store_time(struct rtc *rtc)
{
    time_t now = guest_second(rtc);
    struct tm tm = {0};
    // Offsets are bounded, so the year fits.
    gmtime_r(&now, &tm);
    int year = tm.tm_year + 1900;
    uint8_t *cmos = rtc->cmos;
    cmos[REG_SECONDS] = encode(rtc, tm.tm_sec);
    cmos[REG_MINUTES] = encode(rtc, tm.tm_min);
    cmos[REG_HOURS] = encode_hours(rtc, tm.tm_hour);
    cmos[REG_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
    cmos[REG_DAY] = encode(rtc, tm.tm_mday);
    cmos[REG_MONTH] = encode(rtc, tm.tm_mon + 1);
    cmos[REG_YEAR] = encode(rtc, (year % 100 + 100) % 100);
    cmos[REG_CENTURY] = encode(rtc, year / 100 % 100);
}

// Makes the registers the time. Fields out of range carry, as in timegm(): at most 255 of each, so
// the result is bounded (rtc_load() knows by how much).
static void take_time(struct rtc *rtc)
{
    const uint8_t *cmos = rtc->cmos;
    struct tm tm = {
        .tm_sec = decode(rtc, cmos[REG_SECONDS]),
        .tm_min = decode(rtc, cmos[REG_MINUTES]),
        .tm_hour = decode_hours(rtc, cmos[REG_HOURS]),
        .tm_mday = decode(rtc, cmos[REG_DAY]),
        .tm_mon = decode(rtc, cmos[REG_MONTH]) - 1,
        .tm_year = decode(rtc, cmos[REG_CENTURY]) * 100 + decode(rtc, cmos[REG_YEAR]) - 1900,
    };
    rtc->offset += timegm(&tm) - guest_second(rtc);
    rtc->seen_second = guest_second(rtc);
}

static bool is_time_register(unsigned reg)
{
    return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
           (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

// Events

// The periodic rate in Hz (MC146818A, table 3), 0 for off.
static unsigned periodic_rate(const struct rtc *rtc)
{
    unsigned rate = rtc->cmos[REG_A] & A_RATE;
    if (rate == 0)
        return 0;
    return 32768 >> (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t periodic_tick(const struct rtc *rtc)
{
    return (uint64_t)((unsigned __int128)clock_monotonic_ns() * periodic_rate(rtc) / NSEC_PER_SEC);
}

static bool alarm_field_matches(const struct rtc *rtc, unsigned reg, int value)
{
    uint8_t field = rtc->cmos[reg];
    if ((field & ALARM_ANY) == ALARM_ANY)
        return true;
    return (reg == REG_HOURS_ALARM ? decode_hours(rtc, field) : decode(rtc, field)) == value;
}

// Whether the alarm rings in one of the seconds (from, to].
static bool alarm_rings(const struct rtc *rtc, int64_t from, int64_t to)
{
    if (to - from > DAY_SECONDS)
        from = to - DAY_SECONDS; // all of a day
    for (int64_t second = from + 1; second <= to; second++) {
        int day_second = (int)((second % DAY_SECONDS + DAY_SECONDS) % DAY_SECONDS);
        if (alarm_field_matches(rtc, REG_SECONDS_ALARM, day_second % 60) &&
            alarm_field_matches(rtc, REG_MINUTES_ALARM, day_second / 60 % 60) &&
            alarm_field_matches(rtc, REG_HOURS_ALARM, day_second / 3600))
            return true;
    }
    return false;
}

static void update_line(struct rtc *rtc)
{
    uint8_t *c = &rtc->cmos[REG_C];
    bool level = *c & rtc->cmos[REG_B] & B_ENABLES;
    *c = (uint8_t)((*c & ~C_REQUEST) | (level ? C_REQUEST : 0));
    if (level == rtc->line_level)
        return;
    rtc->line_level = level;
    rtc->machine->ops->irq_line(rtc->machine->machine, rtc->config.gsi, level);
}

// Sets the flags of what has happened since the last look. Called with the lock held, before
// anything that decides about events is read or changed.
static void count_events(struct rtc *rtc)
{
    int64_t second = guest_second(rtc);
    if (second > rtc->seen_second && !(rtc->cmos[REG_B] & B_SET)) {
        rtc->cmos[REG_C] |= C_UPDATE;
        if (alarm_rings(rtc, rtc->seen_second, second))
            rtc->cmos[REG_C] |= C_ALARM;
    }
    rtc->seen_second = second; // also when the host's clock was set back
    uint64_t tick = periodic_tick(rtc);
    if (tick > rtc->seen_tick)
        rtc->cmos[REG_C] |= C_PERIODIC;
    rtc->seen_tick = tick;
    update_line(rtc);
}

// Nanoseconds until the next event of the enabled kinds that isn't flagged yet; 0 for none. So a
// guest that doesn't acknowledge costs no host timer.
static uint64_t next_event(const struct rtc *rtc)
{
    uint8_t wanted = rtc->cmos[REG_B] & B_ENABLES & ~rtc->cmos[REG_C];
    uint64_t wait = 0;
    if ((wanted & (C_ALARM | C_UPDATE)) && !(rtc->cmos[REG_B] & B_SET))
        wait = NSEC_PER_SEC - clock_realtime_ns() % NSEC_PER_SEC;
    if ((wanted & C_PERIODIC) && periodic_rate(rtc)) {
        unsigned rate = periodic_rate(rtc);
        uint64_t at = (uint64_t)((unsigned __int128)(rtc->seen_tick + 1) * NSEC_PER_SEC / rate) + 1;
        uint64_t now = clock_monotonic_ns();
        uint64_t periodic = at > now ? at - now : 1;
        if (wait == 0 || periodic < wait)
            wait = periodic;
    }
    return wait;
}

static void set_timer(struct rtc *rtc)
{
    uint64_t wait = rtc->quiesced ? 0 : next_event(rtc);
    const struct itimerspec when = {.it_value = {.tv_sec = (time_t)(wait / NSEC_PER_SEC),
                                                 .tv_nsec = (long)(wait % NSEC_PER_SEC)}};
    timerfd_settime(rtc->timer_fd, 0, &when, NULL);
}

static void timer_fired(void *opaque)
{
    struct rtc *rtc = opaque;
    uint64_t count;
    if (read(rtc->timer_fd, &count, sizeof(count)) < 0)
        return; // set anew meanwhile
    pthread_mutex_lock(&rtc->lock);
    if (!rtc->quiesced) {
        count_events(rtc);
        set_timer(rtc);
    }
    pthread_mutex_unlock(&rtc->lock);
}

// Registers, with the lock held

static uint8_t read_register(struct rtc *rtc, unsigned reg)
{
    bool held = rtc->cmos[REG_B] & B_SET;
    if (is_time_register(reg) && !held)
        store_time(rtc);
    uint8_t value = rtc->cmos[reg];
    if (reg == REG_A) {
        bool updating = clock_realtime_ns() % NSEC_PER_SEC >= NSEC_PER_SEC - UPDATE_NS;
        return value | (updating && !held ? A_UPDATING : 0);
    }
    if (reg == REG_C) {
        count_events(rtc);
        value = rtc->cmos[REG_C];
        rtc->cmos[REG_C] = 0;
        update_line(rtc);
        set_timer(rtc);
    }
    return value;
}

static void write_b(struct rtc *rtc, uint8_t value)
{
    uint8_t before = rtc->cmos[REG_B];
    count_events(rtc);
    if (!(before & B_SET))
        store_time(rtc); // what SET holds, in the old format
    if (value & B_SET)
        value &= (uint8_t)~C_UPDATE; // SET clears the update interrupt's enable bit
    bool released = (before & B_SET) && !(value & B_SET);
    rtc->cmos[REG_B] = value;
    if (released)
        take_time(rtc);
    update_line(rtc);
    set_timer(rtc);
}

static void write_register(struct rtc *rtc, unsigned reg, uint8_t value)
{
    switch (reg) {
    case REG_A:
        count_events(rtc);
        rtc->cmos[REG_A] = value & (uint8_t)~A_UPDATING;
        rtc->seen_tick = periodic_tick(rtc);
        set_timer(rtc);
        return;
    case REG_B:
        write_b(rtc, value);
        return;
    case REG_C:
    case REG_D: // read-only
        return;
    case REG_SECONDS_ALARM:
    case REG_MINUTES_ALARM:
    case REG_HOURS_ALARM:
        count_events(rtc); // with the old alarm
        rtc->cmos[reg] = value;
        return;
    default:
        break;
    }
    if (!is_time_register(reg) || (rtc->cmos[REG_B] & B_SET)) {
        rtc->cmos[reg] = value;
        return;
    }
    // A field of the running clock.
    store_time(rtc);
    rtc->cmos[reg] = value;
    take_time(rtc);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned length)
{
    struct rtc *rtc = opaque;
    uint64_t value = UINT64_MAX; // the index can't be read
    pthread_mutex_lock(&rtc->lock);
    for (unsigned i = 0; i < length; i++)
        if (offset + i == PORT_DATA)
            value ^= (uint64_t)(read_register(rtc, rtc->index) ^ 0xff) << (8 * i);
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct rtc *rtc = opaque;
    pthread_mutex_lock(&rtc->lock);
    // A word at the index port writes both, low byte first.
    for (unsigned i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        if (offset + i == PORT_INDEX)
            rtc->index = byte % CMOS_SIZE; // the top bit masks NMIs, of which there are none
        else
            write_register(rtc, rtc->index, byte);
    }
    pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_handler handler = {.read = rtc_read, .write = rtc_write};

// Life and state

static struct rtc *from_device(struct device *device)
{
    return (struct rtc *)device; // the first member
}

struct device *rtc_device(struct rtc *rtc)
{
    return &rtc->device;
}

// `units` at `reg` and the bytes behind it, as many as `bytes`; more than fits is the most that
// fits.
static void store_size(struct rtc *rtc, unsigned reg, unsigned bytes, uint64_t units)
{
    uint64_t most = (UINT64_C(1) << (8 * bytes)) - 1;
    if (units > most)
        units = most;
    for (unsigned i = 0; i < bytes; i++)
        rtc->cmos[reg + i] = (uint8_t)(units >> (8 * i));
}

// The memory-size bytes that firmware would have left.
static void store_memory_size(struct rtc *rtc)
{
    const uint64_t kib = 1024, mib = 1024 * kib;
    uint64_t low = rtc->config.low_ram;
    store_size(rtc, 0x15, 2, 640);
    uint64_t extended = low > mib ? (low - mib) / kib : 0;
    store_size(rtc, 0x17, 2, extended);
    store_size(rtc, 0x30, 2, extended);
    store_size(rtc, 0x34, 2, low > 16 * mib ? (low - 16 * mib) / (64 * kib) : 0);
    store_size(rtc, 0x5b, 3, rtc->config.high_ram / (64 * kib));
}

static void rtc_reset(struct device *device)
{
    struct rtc *rtc = from_device(device);
    pthread_mutex_lock(&rtc->lock);
    rtc->index = 0;
    rtc->cmos[REG_A] = A_POWER_ON;
    rtc->cmos[REG_B] = B_24_HOURS;
    rtc->cmos[REG_C] = 0;
    rtc->cmos[REG_D] = D_VALID;
    rtc->cmos[REG_SHUTDOWN] = 0;
    store_memory_size(rtc);
    rtc->seen_second = guest_second(rtc);
    rtc->seen_tick = periodic_tick(rtc);
    update_line(rtc);
    set_timer(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static void nothing(void *opaque)
{
}

static void rtc_quiesce(struct device *device)
{
    struct rtc *rtc = from_device(device);
    pthread_mutex_lock(&rtc->lock);
    rtc->quiesced = true;
    set_timer(rtc);
    pthread_mutex_unlock(&rtc->lock);
    // A callback that had begun has ended when this returns.
    io_thread_call(rtc->config.thread, nothing, NULL);
}

static void rtc_resume(struct device *device)
{
    struct rtc *rtc = from_device(device);
    pthread_mutex_lock(&rtc->lock);
    rtc->quiesced = false;
    count_events(rtc);
    set_timer(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static const struct state_field fields[] = {
    STATE_FIELD(STATE_U8, struct rtc, index),
    STATE_ARRAY(STATE_U8, struct rtc, cmos),
    STATE_FIELD(STATE_U64, struct rtc, saved_offset),
    {0},
};
static const struct state_section section = {.name = "rtc", .version = 1, .fields = fields};

static void rtc_save(struct device *device, struct byte_writer *writer)
{
    struct rtc *rtc = from_device(device);
    pthread_mutex_lock(&rtc->lock);
    rtc->saved_offset = (uint64_t)rtc->offset;
    state_section_save(&section, rtc, writer);
    pthread_mutex_unlock(&rtc->lock);
}

// Registers as the guest could have written them.
static void clean_registers(struct rtc *rtc)
{
    rtc->index %= CMOS_SIZE;
    rtc->cmos[REG_A] &= (uint8_t)~A_UPDATING;
    rtc->cmos[REG_C] &= B_ENABLES;
    rtc->cmos[REG_D] = D_VALID;
}

static int rtc_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    // More than the registers can say: century and year are bytes, so at most the year 25755.
    const int64_t limit = INT64_C(30000) * 366 * DAY_SECONDS;
    struct rtc *rtc = from_device(device);
    pthread_mutex_lock(&rtc->lock);
    int rc = state_section_load(&section, rtc, reader, err);
    clean_registers(rtc);
    int64_t offset = (int64_t)rtc->saved_offset;
    if (rc == 0 && (offset < -limit || offset > limit))
        rc = error_set(err, EPROTO, "the state of '%s' has a clock that is off by %lld seconds",
                       rtc->device.id, (long long)offset);
    if (rc == 0)
        rtc->offset = offset;
    rtc->seen_second = guest_second(rtc);
    rtc->seen_tick = periodic_tick(rtc);
    rtc->line_level = rtc->cmos[REG_C] & rtc->cmos[REG_B] & B_ENABLES;
    rtc->cmos[REG_C] |= rtc->line_level ? C_REQUEST : 0;
    rtc->machine->ops->irq_line(rtc->machine->machine, rtc->config.gsi, rtc->line_level);
    set_timer(rtc);
    pthread_mutex_unlock(&rtc->lock);
    return rc;
}

static void unwatch(void *opaque)
{
    struct rtc *rtc = opaque;
    io_thread_unwatch(rtc->watch);
}

static void rtc_destroy(struct device *device)
{
    struct rtc *rtc = from_device(device);
    bus_remove(rtc->ports, rtc->config.port);
    io_thread_call(rtc->config.thread, unwatch, rtc);
    close(rtc->timer_fd);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}

static const struct device_ops ops = {
    .kind = "rtc",
    .reset = rtc_reset,
    .quiesce = rtc_quiesce,
    .resume = rtc_resume,
    .save = rtc_save,
    .load = rtc_load,
    .destroy = rtc_destroy,
};

struct watch_request {
    struct rtc *rtc;
    int rc;
};

static void watch(void *opaque)
{
    struct watch_request *request = opaque;
    struct rtc *rtc = request->rtc;
    request->rc = io_thread_watch(rtc->config.thread, rtc->timer_fd, timer_fired, rtc, &rtc->watch);
}

int rtc_create(struct rtc **rtc, struct machine_bus *machine, struct bus *ports,
               const struct rtc_config *config, struct error *err)
{
    struct rtc *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, ENOMEM, "clock '%s': no memory", config->id);
    r->device.ops = &ops;
    snprintf(r->device.id, sizeof(r->device.id), "%s", config->id);
    r->machine = machine;
    r->ports = ports;
    r->config = *config;
    pthread_mutex_init(&r->lock, NULL);
    int rc;
    r->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (r->timer_fd < 0) {
        rc = -errno;
        goto fail;
    }
    struct watch_request request = {.rtc = r};
    io_thread_call(config->thread, watch, &request);
    rc = request.rc;
    if (rc < 0)
        goto fail_timer;
    rtc_reset(&r->device);
    const struct bus_range range = {.start = config->port,
                                    .size = PORTS,
                                    .handler = &handler,
                                    .opaque = r,
                                    .name = r->device.id};
    rc = bus_add(ports, &range);
    if (rc < 0)
        goto fail_watch;
    *rtc = r;
    return 0;

fail_watch:
    io_thread_call(config->thread, unwatch, r);
fail_timer:
    close(r->timer_fd);
fail:
    pthread_mutex_destroy(&r->lock);
    free(r);
    return error_set_errno(err, -rc, "clock '%s' at port 0x%x", config->id, config->port);
}
