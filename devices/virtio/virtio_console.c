#include "devices/virtio/virtio_console.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/kinds.h"

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
    QUEUES = 2,
    QUEUE_SIZE = 64,
    INPUT_SIZE = 4096,
    OUTPUT_TURN = 256 * 1024, // bytes before the I/O thread looks at its other work
    // Device configuration (virtio 1.2, 5.3.4).
    CONFIG_COLUMNS = 0,
    CONFIG_ROWS = 2,
    CONFIG_PORTS = 4,
    CONFIG_EMERGENCY = 8,
    CONFIG_SIZE = 12,
};

#define F_SIZE        VIRTIO_FEATURE(0)
#define F_EMERG_WRITE VIRTIO_FEATURE(2)

struct virtio_console {
    struct virtio_device virtio; // first
    struct virtio_console_config config;

    // Rung by virtio_console_room() and virtio_console_input(): the I/O thread shall look again.
    int event_fd;
    struct io_watch *watch; // on the I/O thread

    // On the I/O thread. How much of the transmit chain that comes next went out before the sink
    // was full; the chain itself stays in the ring.
    uint32_t output_done;
    struct virtqueue_chain chain;

    pthread_mutex_t input_lock; // guards the rest; innermost, nothing is called under it
    uint8_t input[INPUT_SIZE];  // a ring: `input_length` bytes from `input_start` on
    uint32_t input_start, input_length;
    bool input_refused; // less was taken than given: say so when there's room
};

static struct virtio_console *from_virtio(struct virtio_device *d)
{
    return (struct virtio_console *)d; // its first member
}

// Output

// Offers the rest of the chain to the sink, up to *budget bytes of it. True when all of it is out.
static bool put_out(struct virtio_console *c, size_t *budget)
{
    uint32_t skip = c->output_done;
    for (unsigned i = 0; i < c->chain.out_count; i++) {
        const struct iovec *part = &c->chain.iov[i];
        if (skip >= part->iov_len) {
            skip -= (uint32_t)part->iov_len;
            continue;
        }
        size_t left = part->iov_len - skip;
        size_t offered = left < *budget ? left : *budget;
        size_t taken =
            c->config.output(c->config.opaque, (const uint8_t *)part->iov_base + skip, offered);
        assert(taken <= offered);
        c->output_done += (uint32_t)taken;
        *budget -= taken;
        if (taken < left)
            return false;
        skip = 0;
    }
    return true;
}

static bool serve_transmit(struct virtio_console *c)
{
    struct virtio_queue *q = &c->virtio.queues[QUEUE_TRANSMIT];
    bool again = true;
    size_t budget = OUTPUT_TURN;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < VIRTQUEUE_TURN; n++) {
        if (!virtqueue_next(&q->ring, &c->chain, &again))
            break;
        if (!put_out(c, &budget)) {
            // The sink is full, or the turn is over. The guest's bytes wait where they are.
            virtqueue_rewind(&q->ring, 1);
            again = budget == 0;
            break;
        }
        virtio_queue_count_bytes(q, c->chain.out_bytes);
        c->output_done = 0;
        virtqueue_push(&q->ring, &c->chain, 0);
    }
    virtqueue_publish(&q->ring);
    return again;
}

// Input

// Moves buffered input into the chain; returns how many bytes.
static uint32_t fill(struct virtio_console *c)
{
    uint32_t done = 0;
    pthread_mutex_lock(&c->input_lock);
    while (c->input_length > 0 && done < c->chain.in_bytes) {
        uint32_t piece = INPUT_SIZE - c->input_start; // up to the end of the buffer
        if (piece > c->input_length)
            piece = c->input_length;
        piece = (uint32_t)virtqueue_chain_write(&c->chain, done, c->input + c->input_start, piece);
        done += piece;
        c->input_start = (c->input_start + piece) % INPUT_SIZE;
        c->input_length -= piece;
    }
    pthread_mutex_unlock(&c->input_lock);
    return done;
}

static bool has_input(struct virtio_console *c)
{
    pthread_mutex_lock(&c->input_lock);
    bool has = c->input_length > 0;
    pthread_mutex_unlock(&c->input_lock);
    return has;
}

static void tell_room(struct virtio_console *c)
{
    pthread_mutex_lock(&c->input_lock);
    bool tell = c->input_refused && c->input_length < INPUT_SIZE;
    if (tell)
        c->input_refused = false;
    pthread_mutex_unlock(&c->input_lock);
    if (tell && c->config.input_room)
        c->config.input_room(c->config.opaque);
}

static void serve_receive(struct virtio_console *c)
{
    struct virtio_queue *q = &c->virtio.queues[QUEUE_RECEIVE];
    bool again;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < 2 * INPUT_SIZE && has_input(c); n++) {
        if (!virtqueue_next(&q->ring, &c->chain, &again))
            break;
        if (c->chain.in_bytes == 0) {
            virtqueue_rewind(&q->ring, 1);
            virtqueue_break(&q->ring, "a receive buffer without room");
            break;
        }
        uint32_t written = fill(c);
        virtqueue_push(&q->ring, &c->chain, written);
        virtio_queue_count_bytes(q, written);
    }
    virtqueue_publish(&q->ring);
    tell_room(c);
}

static bool console_serve(struct virtio_device *d, unsigned index)
{
    struct virtio_console *c = from_virtio(d);
    if (index == QUEUE_TRANSMIT)
        return serve_transmit(c);
    serve_receive(c);
    return false;
}

static void look_again(void *opaque)
{
    struct virtio_console *c = opaque;
    eventfd_t count;
    eventfd_read(c->event_fd, &count);
    serve_receive(c);
    if (serve_transmit(c))
        virtio_queue_ring(&c->virtio.queues[QUEUE_TRANSMIT]);
}

void virtio_console_room(struct device *device)
{
    struct virtio_console *c = (struct virtio_console *)device;
    eventfd_write(c->event_fd, 1);
}

size_t virtio_console_input(struct device *device, const void *bytes, size_t length)
{
    struct virtio_console *c = (struct virtio_console *)device;
    const uint8_t *from = bytes;
    pthread_mutex_lock(&c->input_lock);
    size_t taken = INPUT_SIZE - c->input_length;
    if (taken > length)
        taken = length;
    for (size_t i = 0; i < taken; i++)
        c->input[(c->input_start + c->input_length + i) % INPUT_SIZE] = from[i];
    c->input_length += (uint32_t)taken;
    if (taken < length)
        c->input_refused = true;
    pthread_mutex_unlock(&c->input_lock);
    if (taken > 0)
        eventfd_write(c->event_fd, 1);
    return taken;
}

// Life

static int console_start(struct virtio_device *d)
{
    struct virtio_console *c = from_virtio(d);
    return io_thread_watch(d->io_thread, c->event_fd, look_again, c, &c->watch);
}

static void console_stop(struct virtio_device *d)
{
    struct virtio_console *c = from_virtio(d);
    io_thread_unwatch(c->watch);
    c->watch = NULL;
}

static void console_reset(struct virtio_device *d)
{
    struct virtio_console *c = from_virtio(d);
    // The chain that was half out is gone with the queue. Input is the person's, and stays.
    c->output_done = 0;
}

// An early driver prints without a queue (5.3.4, VIRTIO_CONSOLE_F_EMERG_WRITE): best effort, since
// there is nowhere to keep what the sink doesn't take.
struct emergency {
    struct virtio_console *console;
    uint8_t byte;
};

static void put_emergency(void *opaque)
{
    struct emergency *e = opaque;
    e->console->config.output(e->console->config.opaque, &e->byte, 1);
}

static void console_config_write(struct virtio_device *d, uint32_t offset, unsigned length,
                                 uint64_t value)
{
    struct emergency e = {.console = from_virtio(d), .byte = (uint8_t)value};
    if (offset == CONFIG_EMERGENCY)
        io_thread_call(d->io_thread, put_emergency, &e);
}

static const struct state_field console_fields[] = {
    STATE_FIELD(STATE_U32, struct virtio_console, output_done),
    STATE_FIELD(STATE_U32, struct virtio_console, input_start),
    STATE_FIELD(STATE_U32, struct virtio_console, input_length),
    STATE_ARRAY(STATE_U8, struct virtio_console, input),
    {.name = NULL},
};

static const struct state_section console_section = {
    .name = "virtio-console", .version = 1, .fields = console_fields};

static void console_save(struct virtio_device *d, struct byte_writer *writer)
{
    struct virtio_console *c = from_virtio(d);
    pthread_mutex_lock(&c->input_lock);
    state_section_save(&console_section, c, writer);
    pthread_mutex_unlock(&c->input_lock);
}

static int console_load(struct virtio_device *d, struct byte_reader *reader, struct error *err)
{
    struct virtio_console *c = from_virtio(d);
    pthread_mutex_lock(&c->input_lock);
    int rc = state_section_load(&console_section, c, reader, err);
    if (rc == 0 && (c->input_start >= INPUT_SIZE || c->input_length > INPUT_SIZE))
        rc = error_set(err, EBADMSG, "the input buffer has a wrong size");
    if (rc < 0)
        c->output_done = c->input_start = c->input_length = 0;
    pthread_mutex_unlock(&c->input_lock);
    return rc;
}

static void console_destroy(struct virtio_device *d)
{
    struct virtio_console *c = from_virtio(d);
    close(c->event_fd);
    pthread_mutex_destroy(&c->input_lock);
    free(c);
}

const struct virtio_device_ops virtio_console_ops = {
    .kind = "virtio-console",
    .virtio_id = 3,
    .class_code = 0x078000, // simple communication
    .config_write = console_config_write,
    .start = console_start,
    .stop = console_stop,
    .serve = console_serve,
    .reset = console_reset,
    .save = console_save,
    .load = console_load,
    .destroy = console_destroy,
};

int virtio_console_create(struct device **device, const struct virtio_environment *env,
                          const struct virtio_console_config *config, struct error *err)
{
    struct virtio_console *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, ENOMEM, "console '%s': no memory", env->id);
    c->config = *config;
    c->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->event_fd < 0) {
        int code = errno;
        free(c);
        return error_set_errno(err, code, "console '%s': no eventfd", env->id);
    }
    pthread_mutex_init(&c->input_lock, NULL);
    bytes_put_u16(c->virtio.config + CONFIG_COLUMNS, 80);
    bytes_put_u16(c->virtio.config + CONFIG_ROWS, 25);
    bytes_put_u32(c->virtio.config + CONFIG_PORTS, 1);
    c->virtio.config_size = CONFIG_SIZE;
    int rc = virtio_device_init(&c->virtio, &virtio_console_ops, env, F_SIZE | F_EMERG_WRITE,
                                QUEUES, QUEUE_SIZE, err);
    if (rc < 0) {
        close(c->event_fd);
        pthread_mutex_destroy(&c->input_lock);
        free(c);
        return rc;
    }
    *device = &c->virtio.device;
    return 0;
}

void virtio_console_resize(struct device *device, uint16_t columns, uint16_t rows)
{
    struct virtio_console *c = (struct virtio_console *)device;
    uint8_t size[4];
    bytes_put_u16(size, columns);
    bytes_put_u16(size + 2, rows);
    virtio_device_config_change(&c->virtio, CONFIG_COLUMNS, size, sizeof(size));
}
