#include "devices/serial.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"

enum {
    PORTS = 8,
    FIFO_SIZE = 16,

    REG_DATA = 0, // receiver / transmitter; divisor low with DLAB
    REG_IER = 1,  // interrupt enable; divisor high with DLAB
    REG_IIR = 2,  // interrupt identification (read), FIFO control (write)
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCRATCH = 7,

    IER_RECEIVED = 0x01,
    IER_TRANSMITTER = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_WRITABLE = 0x0f,

    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_TRANSMITTER = 0x02,
    IIR_RECEIVED = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVER = 0x02,
    FCR_CLEAR_TRANSMITTER = 0x04,
    FCR_STORED = 0xc9,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_WRITABLE = 0x1f,

    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_ERRORS = 0x1e,
    LSR_TRANSMITTER = 0x60, // holding register and shifter are empty

    MSR_DELTAS = 0x0f,
    MSR_RING_ENDED = 0x04,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RING = 0x40,
    MSR_DCD = 0x80,
};

struct serial_fifo {
    uint8_t bytes[FIFO_SIZE];
    uint8_t count;
};

struct serial {
    struct device device;
    struct machine_bus *machine;
    struct bus *ports;
    struct serial_config config;
    pthread_mutex_t lock; // guards everything below
    pthread_cond_t idle;  // no thread is in the sink's write

    uint8_t ier, fcr, lcr, mcr, scratch, divisor_low, divisor_high;
    uint8_t line_errors;  // error bits of LSR, cleared by its read
    uint8_t modem_deltas; // low half of MSR, cleared by its read
    bool transmitter_interrupt;
    struct serial_fifo receiver, transmitter;

    bool line_level;     // of the interrupt line
    bool input_waits;    // serial_input() left bytes with its caller
    bool draining;       // a thread is offering output to the sink
    bool drain_again;    // output or room came meanwhile
    bool output_dropped; // the transmitter was cleared meanwhile
    bool quiesced;
};

// The FIFO's capacity in the present mode.
static unsigned capacity(const struct serial *serial)
{
    return serial->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static void fifo_drop(struct serial_fifo *fifo, unsigned count)
{
    memmove(fifo->bytes, fifo->bytes + count, fifo->count - count);
    fifo->count = (uint8_t)(fifo->count - count);
}

// Modem lines as the guest sees them: everything is connected, or, in loopback, its own outputs.
static uint8_t modem_lines(const struct serial *serial)
{
    if (!(serial->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (serial->mcr & MCR_RTS ? MSR_CTS : 0) | (serial->mcr & MCR_DTR ? MSR_DSR : 0) |
           (serial->mcr & MCR_OUT1 ? MSR_RING : 0) | (serial->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static unsigned trigger_level(const struct serial *serial)
{
    static const uint8_t levels[] = {1, 4, 8, 14};
    return serial->fcr & FCR_ENABLE ? levels[serial->fcr >> 6] : 1;
}

// The pending interrupt of highest priority (PC16550D, table III).
static uint8_t interrupt_source(const struct serial *serial)
{
    if ((serial->ier & IER_LINE) && serial->line_errors)
        return IIR_LINE;
    if ((serial->ier & IER_RECEIVED) && serial->receiver.count > 0)
        return serial->receiver.count >= trigger_level(serial) ? IIR_RECEIVED : IIR_TIMEOUT;
    if ((serial->ier & IER_TRANSMITTER) && serial->transmitter_interrupt)
        return IIR_TRANSMITTER;
    if ((serial->ier & IER_MODEM) && serial->modem_deltas)
        return IIR_MODEM;
    return IIR_NONE;
}

// Called with the lock held after each change. The line isn't gated by OUT2 as on a PC's board:
// nothing else shares it, and some guests never set that bit.
static void update_line(struct serial *serial)
{
    bool level = interrupt_source(serial) != IIR_NONE;
    if (level == serial->line_level)
        return;
    serial->line_level = level;
    serial->machine->ops->irq_line(serial->machine->machine, serial->config.gsi, level);
}

// Offers what waits in the transmitter to the sink, as long as it takes all of it. Called without
// the lock. Bytes leave the transmitter only after the sink took them, so a guest that sees the
// transmitter empty knows that they are out.
static void drain(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    if (serial->draining || serial->quiesced) {
        serial->drain_again = true;
        pthread_mutex_unlock(&serial->lock);
        return;
    }
    serial->draining = true;
    do {
        serial->drain_again = false;
        while (serial->transmitter.count > 0) {
            struct serial_fifo offer = serial->transmitter;
            serial->output_dropped = false;
            pthread_mutex_unlock(&serial->lock);
            size_t taken = serial->config.write(serial->config.opaque, offer.bytes, offer.count);
            pthread_mutex_lock(&serial->lock);
            if (taken > offer.count)
                taken = offer.count;
            if (!serial->output_dropped)
                fifo_drop(&serial->transmitter, (unsigned)taken);
            if (taken > 0 && serial->transmitter.count == 0)
                serial->transmitter_interrupt = true;
            if (taken < offer.count)
                break; // the sink calls serial_output_ready() later
        }
    } while (serial->drain_again && !serial->quiesced);
    serial->draining = false;
    pthread_cond_broadcast(&serial->idle);
    update_line(serial);
    pthread_mutex_unlock(&serial->lock);
}

// Register writes, with the lock held.

static void receive(struct serial *serial, uint8_t byte)
{
    struct serial_fifo *fifo = &serial->receiver;
    if (fifo->count < capacity(serial)) {
        fifo->bytes[fifo->count++] = byte;
        return;
    }
    serial->line_errors |= LSR_OVERRUN;
    if (!(serial->fcr & FCR_ENABLE))
        fifo->bytes[0] = byte; // without FIFOs the new byte replaces the old one
}

static void write_data(struct serial *serial, uint8_t value)
{
    serial->transmitter_interrupt = false;
    if (serial->mcr & MCR_LOOP) {
        receive(serial, value);
        serial->transmitter_interrupt = true;
        return;
    }
    // A guest that writes to a full transmitter overwrites its last byte.
    struct serial_fifo *fifo = &serial->transmitter;
    if (fifo->count == capacity(serial))
        fifo->count--;
    fifo->bytes[fifo->count++] = value;
}

static void write_interrupt_enable(struct serial *serial, uint8_t value)
{
    // Enabling the interrupt of an empty transmitter raises it; Linux tests for that.
    if ((value & ~serial->ier & IER_TRANSMITTER) && serial->transmitter.count == 0)
        serial->transmitter_interrupt = true;
    serial->ier = value & IER_WRITABLE;
}

static void clear_transmitter(struct serial *serial)
{
    serial->transmitter.count = 0;
    serial->transmitter_interrupt = true;
    serial->output_dropped = true;
}

static void write_fifo_control(struct serial *serial, uint8_t value)
{
    bool switched = (value ^ serial->fcr) & FCR_ENABLE;
    if (switched || (value & FCR_CLEAR_RECEIVER))
        serial->receiver.count = 0;
    if (serial->transmitter.count > 0 && (switched || (value & FCR_CLEAR_TRANSMITTER)))
        clear_transmitter(serial);
    serial->fcr = value & FCR_ENABLE ? value & FCR_STORED : 0;
}

static void write_modem_control(struct serial *serial, uint8_t value)
{
    uint8_t before = modem_lines(serial);
    serial->mcr = value & MCR_WRITABLE;
    uint8_t after = modem_lines(serial);
    uint8_t changed = (uint8_t)((before ^ after) >> 4);
    // The ring indicator reports only its end.
    if (!(before & MSR_RING))
        changed &= (uint8_t)~MSR_RING_ENDED;
    serial->modem_deltas |= changed;
}

static void write_register(struct serial *serial, unsigned reg, uint8_t value)
{
    bool divisor = serial->lcr & LCR_DLAB;
    switch (reg) {
    case REG_DATA:
        if (divisor)
            serial->divisor_low = value;
        else
            write_data(serial, value);
        break;
    case REG_IER:
        if (divisor)
            serial->divisor_high = value;
        else
            write_interrupt_enable(serial, value);
        break;
    case REG_IIR:
        write_fifo_control(serial, value);
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        write_modem_control(serial, value);
        break;
    case REG_SCRATCH:
        serial->scratch = value;
        break;
    default: // the status registers are read-only
        break;
    }
}

// Register reads, with the lock held.

static uint8_t read_data(struct serial *serial)
{
    if (serial->receiver.count == 0)
        return 0;
    uint8_t byte = serial->receiver.bytes[0];
    fifo_drop(&serial->receiver, 1);
    return byte;
}

static uint8_t read_interrupt_source(struct serial *serial)
{
    uint8_t source = interrupt_source(serial);
    if (source == IIR_TRANSMITTER)
        serial->transmitter_interrupt = false; // reading its source acknowledges it
    return source | (serial->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_line_status(struct serial *serial)
{
    uint8_t value = serial->line_errors | (serial->receiver.count > 0 ? LSR_DATA : 0) |
                    (serial->transmitter.count == 0 ? LSR_TRANSMITTER : 0);
    serial->line_errors = 0;
    return value;
}

static uint8_t read_modem_status(struct serial *serial)
{
    uint8_t value = serial->modem_deltas | modem_lines(serial);
    serial->modem_deltas = 0;
    return value;
}

static uint8_t read_register(struct serial *serial, unsigned reg)
{
    bool divisor = serial->lcr & LCR_DLAB;
    switch (reg) {
    case REG_DATA:
        return divisor ? serial->divisor_low : read_data(serial);
    case REG_IER:
        return divisor ? serial->divisor_high : serial->ier;
    case REG_IIR:
        return read_interrupt_source(serial);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        return read_line_status(serial);
    case REG_MSR:
        return read_modem_status(serial);
    default:
        return serial->scratch;
    }
}

// Whether the caller, after it let go of the lock, must tell that input is welcome again. Asked
// only when the receiver is empty, so that the source wakes up once a FIFO and not once a byte.
static bool take_input_wish(struct serial *serial)
{
    bool wish = serial->input_waits && serial->receiver.count == 0 && !serial->quiesced &&
                !(serial->mcr & MCR_LOOP);
    if (wish)
        serial->input_waits = false;
    return wish;
}

static void tell_input_ready(const struct serial *serial)
{
    if (serial->config.input_ready)
        serial->config.input_ready(serial->config.opaque);
}

// The registers are bytes; a wider access is one byte after the other, as on the ISA bus.

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned length)
{
    struct serial *serial = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < length; i++)
        value |= (uint64_t)read_register(serial, (unsigned)offset + i) << (8 * i);
    update_line(serial);
    bool wish = take_input_wish(serial);
    pthread_mutex_unlock(&serial->lock);
    if (wish)
        tell_input_ready(serial);
    return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < length; i++)
        write_register(serial, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
    update_line(serial);
    bool wish = take_input_wish(serial);
    bool output = serial->transmitter.count > 0;
    pthread_mutex_unlock(&serial->lock);
    if (output)
        drain(serial);
    if (wish)
        tell_input_ready(serial);
}

static const struct bus_handler handler = {.read = serial_read, .write = serial_write};

void serial_output_ready(struct serial *serial)
{
    drain(serial);
}

size_t serial_input(struct serial *serial, const uint8_t *bytes, size_t length)
{
    size_t taken = 0;
    pthread_mutex_lock(&serial->lock);
    if (!serial->quiesced && !(serial->mcr & MCR_LOOP)) {
        while (taken < length && serial->receiver.count < capacity(serial))
            receive(serial, bytes[taken++]);
        update_line(serial);
    }
    if (taken < length)
        serial->input_waits = true;
    pthread_mutex_unlock(&serial->lock);
    return taken;
}

// Life and state

static struct serial *from_device(struct device *device)
{
    return (struct serial *)device; // the first member
}

struct device *serial_device(struct serial *serial)
{
    return &serial->device;
}

static void serial_reset(struct device *device)
{
    struct serial *serial = from_device(device);
    pthread_mutex_lock(&serial->lock);
    serial->ier = serial->fcr = serial->lcr = serial->mcr = serial->scratch = 0;
    serial->divisor_low = 12; // 9600 baud
    serial->divisor_high = 0;
    serial->line_errors = serial->modem_deltas = 0;
    serial->receiver.count = 0;
    clear_transmitter(serial);
    serial->transmitter_interrupt = false;
    update_line(serial);
    bool wish = take_input_wish(serial);
    pthread_mutex_unlock(&serial->lock);
    if (wish)
        tell_input_ready(serial);
}

static void serial_quiesce(struct device *device)
{
    struct serial *serial = from_device(device);
    pthread_mutex_lock(&serial->lock);
    serial->quiesced = true;
    while (serial->draining)
        pthread_cond_wait(&serial->idle, &serial->lock);
    pthread_mutex_unlock(&serial->lock);
}

static void serial_resume(struct device *device)
{
    struct serial *serial = from_device(device);
    pthread_mutex_lock(&serial->lock);
    serial->quiesced = false;
    bool wish = take_input_wish(serial);
    pthread_mutex_unlock(&serial->lock);
    drain(serial);
    if (wish)
        tell_input_ready(serial);
}

static const struct state_field fields[] = {
    STATE_FIELD(STATE_U8, struct serial, ier),
    STATE_FIELD(STATE_U8, struct serial, fcr),
    STATE_FIELD(STATE_U8, struct serial, lcr),
    STATE_FIELD(STATE_U8, struct serial, mcr),
    STATE_FIELD(STATE_U8, struct serial, scratch),
    STATE_FIELD(STATE_U8, struct serial, divisor_low),
    STATE_FIELD(STATE_U8, struct serial, divisor_high),
    STATE_FIELD(STATE_U8, struct serial, line_errors),
    STATE_FIELD(STATE_U8, struct serial, modem_deltas),
    STATE_FIELD(STATE_BOOL, struct serial, transmitter_interrupt),
    STATE_ARRAY(STATE_U8, struct serial, receiver.bytes),
    STATE_FIELD(STATE_U8, struct serial, receiver.count),
    STATE_ARRAY(STATE_U8, struct serial, transmitter.bytes),
    STATE_FIELD(STATE_U8, struct serial, transmitter.count),
    {0},
};
static const struct state_section section = {.name = "serial", .version = 1, .fields = fields};

static void serial_save(struct device *device, struct byte_writer *writer)
{
    struct serial *serial = from_device(device);
    pthread_mutex_lock(&serial->lock);
    state_section_save(&section, serial, writer);
    pthread_mutex_unlock(&serial->lock);
}

static int serial_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct serial *serial = from_device(device);
    pthread_mutex_lock(&serial->lock);
    int rc = state_section_load(&section, serial, reader, err);
    // A hostile state may hold anything: counts are bounded, bits that no register write could
    // have set are taken out.
    serial->ier &= IER_WRITABLE;
    serial->fcr = serial->fcr & FCR_ENABLE ? serial->fcr & FCR_STORED : 0;
    serial->mcr &= MCR_WRITABLE;
    serial->line_errors &= LSR_ERRORS;
    serial->modem_deltas &= MSR_DELTAS;
    if (serial->receiver.count > capacity(serial) || serial->transmitter.count > capacity(serial)) {
        serial->receiver.count = serial->transmitter.count = 0;
        if (rc == 0)
            rc = error_set(err, EPROTO, "the state of '%s' has a FIFO that is too long",
                           serial->device.id);
    }
    serial->line_level = interrupt_source(serial) != IIR_NONE;
    serial->machine->ops->irq_line(serial->machine->machine, serial->config.gsi,
                                   serial->line_level);
    pthread_mutex_unlock(&serial->lock);
    return rc;
}

static void serial_destroy(struct device *device)
{
    struct serial *serial = from_device(device);
    bus_remove(serial->ports, serial->config.port);
    pthread_cond_destroy(&serial->idle);
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

static const struct device_ops ops = {
    .kind = "serial",
    .reset = serial_reset,
    .quiesce = serial_quiesce,
    .resume = serial_resume,
    .save = serial_save,
    .load = serial_load,
    .destroy = serial_destroy,
};

int serial_create(struct serial **serial, struct machine_bus *machine, struct bus *ports,
                  const struct serial_config *config, struct error *err)
{
    struct serial *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, ENOMEM, "serial port '%s': no memory", config->id);
    s->device.ops = &ops;
    snprintf(s->device.id, sizeof(s->device.id), "%s", config->id);
    s->machine = machine;
    s->ports = ports;
    s->config = *config;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    const struct bus_range range = {.start = config->port,
                                    .size = PORTS,
                                    .handler = &handler,
                                    .opaque = s,
                                    .name = s->device.id};
    int rc = bus_add(ports, &range);
    if (rc < 0) {
        pthread_cond_destroy(&s->idle);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return error_set_errno(err, -rc, "serial port '%s' at port 0x%x", config->id, config->port);
    }
    serial_reset(&s->device);
    *serial = s;
    return 0;
}
