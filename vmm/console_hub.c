#include "vmm/console_hub.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "base/log.h"

enum {
    CLIENT_QUEUE_SIZE = 256 * 1024, // what a slow client may be behind before it misses bytes
    CLIENT_INPUT_SIZE = 1024,
    PUMP_LIMIT = 4 * CONSOLE_RING_SIZE, // moved in one turn of the loop, so that the rest gets its
    DRAIN_CLIENTS_MS = 1000,
    // A guest writes a byte at a time. The first one is moved on at once, what follows is collected
    // for so long: else each byte would wake the loop, the foreground's writer and every client.
    COLLECT_MS = 2,
};
_Static_assert((CONSOLE_RING_SIZE & (CONSOLE_RING_SIZE - 1)) == 0, "positions wrap by a mask");

struct client {
    struct console_hub *hub;
    struct client *next;
    uv_poll_t poll;
    int fd;
    uint8_t *queue; // ring of CLIENT_QUEUE_SIZE bytes
    size_t queue_start, queue_length;
    uint64_t dropped; // since the last marker
    uint8_t input[CLIENT_INPUT_SIZE];
    size_t input_start, input_end; // what the guest had no room for
    bool input_ended;              // nothing more comes from the client
    bool hung_up;                  // it's gone; what it had sent is still for the guest
};

struct console_hub {
    uv_loop_t *loop;
    uv_async_t wake;
    uv_timer_t drain_timer, collect_timer;
    uv_poll_t listener;
    int listen_fd, log_fd;
    unsigned open_handles; // wake, both timers, listener: freed when all are closed

    // The ring. Producers hold `producers`, the main loop doesn't: it is the one consumer. Both
    // positions only grow; head - tail is what is in it.
    pthread_mutex_t producers;
    _Atomic size_t head, tail;
    atomic_bool starved; // a producer was refused since the last output_ready()
    atomic_bool input_room;
    atomic_bool collecting; // collect_timer will pump: producers needn't wake the loop
    uint8_t ring[CONSOLE_RING_SIZE];

    const struct console_guest *guest;
    void *guest_opaque;
    const struct console_foreground *foreground;
    void *foreground_opaque;
    struct client *clients;
    unsigned client_count;

    off_t log_size;
    bool log_failed; // and said so
    uint8_t log_block[64 * 1024];
    void (*drained)(void *opaque);
    void *drained_opaque;
};

// ---- console.log ----

// Moves the newer half to the front. One descriptor and no path, so that it works in a sandbox; a
// reader that follows the file sees it become shorter by exactly half of the limit.
static int log_drop_older_half(struct console_hub *hub)
{
    enum { HALF = CONSOLE_LOG_LIMIT / 2, BLOCK = sizeof(hub->log_block) };
    _Static_assert(HALF % BLOCK == 0, "moved in whole blocks");
    for (off_t at = 0; at < HALF; at += BLOCK) {
        if (pread(hub->log_fd, hub->log_block, BLOCK, at + HALF) != BLOCK ||
            pwrite(hub->log_fd, hub->log_block, BLOCK, at) != BLOCK)
            return -EIO;
    }
    if (ftruncate(hub->log_fd, HALF) != 0)
        return -errno;
    hub->log_size = HALF;
    return 0;
}

static void log_append(struct console_hub *hub, const uint8_t *bytes, size_t length)
{
    while (hub->log_fd >= 0 && length) {
        if (hub->log_size >= CONSOLE_LOG_LIMIT && log_drop_older_half(hub) != 0)
            goto failed;
        size_t room = (size_t)(CONSOLE_LOG_LIMIT - hub->log_size);
        ssize_t n = pwrite(hub->log_fd, bytes, length < room ? length : room, hub->log_size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            goto failed;
        hub->log_size += n;
        hub->log_failed = false;
        bytes += n;
        length -= (size_t)n;
    }
    return;
failed:
    if (!hub->log_failed)
        log_warning("console.log can't be written (%s): console output is missing there",
                    strerror(errno));
    hub->log_failed = true;
}

// ---- clients ----

static void on_client(uv_poll_t *poll, int status, int events);

static void client_free(uv_handle_t *handle)
{
    struct client *client = handle->data;
    free(client->queue);
    free(client);
}

static void client_close(struct client *client)
{
    struct client **link = &client->hub->clients;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    client->hub->client_count--;
    uv_poll_stop(&client->poll);
    close(client->fd);
    uv_close((uv_handle_t *)&client->poll, client_free);
}

static bool client_has_input(const struct client *client)
{
    return client->input_start < client->input_end;
}

// Waits for what can happen next, or closes the client when nothing can. UV_PRIORITIZED never comes
// by itself on such a socket, but while something is waited for a hang-up is reported: so a client
// that leaves is noticed even when nothing is sent to or read from it.
static void client_settle(struct client *client)
{
    if (client->hung_up && client->input_ended && !client_has_input(client)) {
        client_close(client);
        return;
    }
    int events = client->hung_up ? 0 : UV_PRIORITIZED;
    if (client->queue_length)
        events |= UV_WRITABLE;
    if (!client->input_ended && !client_has_input(client))
        events |= UV_READABLE;
    if (events)
        uv_poll_start(&client->poll, events, on_client);
    else
        uv_poll_stop(&client->poll);
}

static void client_hang_up(struct client *client)
{
    client->hung_up = true;
    client->queue_length = 0;
}

static size_t client_enqueue(struct client *client, const uint8_t *bytes, size_t length)
{
    size_t room = CLIENT_QUEUE_SIZE - client->queue_length;
    size_t taken = length < room ? length : room;
    size_t at = (client->queue_start + client->queue_length) % CLIENT_QUEUE_SIZE;
    size_t first = CLIENT_QUEUE_SIZE - at < taken ? CLIENT_QUEUE_SIZE - at : taken;
    memcpy(client->queue + at, bytes, first);
    memcpy(client->queue, bytes + first, taken - first);
    client->queue_length += taken;
    return taken;
}

static void client_output(struct client *client, const uint8_t *bytes, size_t length)
{
    if (client->hung_up)
        return;
    // Once something is missing everything is, up to the marker: so the gap is in one place.
    size_t taken = client->dropped ? 0 : client_enqueue(client, bytes, length);
    client->dropped += length - taken;
}

static void client_send(struct client *client)
{
    while (client->queue_length) {
        size_t to_end = CLIENT_QUEUE_SIZE - client->queue_start;
        size_t length = client->queue_length < to_end ? client->queue_length : to_end;
        ssize_t n = send(client->fd, client->queue + client->queue_start, length,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            client_hang_up(client);
        if (n < 0)
            break;
        client->queue_start = (client->queue_start + (size_t)n) % CLIENT_QUEUE_SIZE;
        client->queue_length -= (size_t)n;
        if (!client->queue_length && client->dropped) {
            char marker[80];
            int marker_length =
                snprintf(marker, sizeof(marker), "\r\n[ferry: %llu bytes were dropped here]\r\n",
                         (unsigned long long)client->dropped);
            client->dropped = 0;
            client_enqueue(client, (const uint8_t *)marker, (size_t)marker_length);
        }
    }
}

static size_t guest_input(struct console_hub *hub, const uint8_t *bytes, size_t length)
{
    return hub->guest ? hub->guest->input(hub->guest_opaque, bytes, length) : length;
}

static void client_offer_input(struct client *client)
{
    if (client_has_input(client))
        client->input_start += guest_input(client->hub, client->input + client->input_start,
                                           client->input_end - client->input_start);
}

static void client_receive(struct client *client)
{
    ssize_t n = recv(client->fd, client->input, sizeof(client->input), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0)
        client_hang_up(client);
    client->input_start = 0;
    client->input_end = n > 0 ? (size_t)n : 0;
    client->input_ended = n <= 0; // after a plain end of input it may still be listening
    client_offer_input(client);
}

static void drain_check(struct console_hub *hub);

static void on_client(uv_poll_t *poll, int status, int events)
{
    struct client *client = poll->data;
    struct console_hub *hub = client->hub;
    if (status < 0 || events & UV_PRIORITIZED)
        client_hang_up(client);
    if (status < 0)
        client->input_ended = true;
    if (events & UV_READABLE)
        client_receive(client);
    client_send(client);
    client_settle(client);
    drain_check(hub);
}

static void client_add(struct console_hub *hub, int fd)
{
    static const char refusal[] = "[ferry: too many clients at this console]\r\n";
    struct client *client = NULL;
    if (hub->client_count < CONSOLE_CLIENTS_LIMIT)
        client = calloc(1, sizeof(*client));
    if (client)
        client->queue = malloc(CLIENT_QUEUE_SIZE);
    if (!client || !client->queue || uv_poll_init(hub->loop, &client->poll, fd) != 0) {
        if (send(fd, refusal, sizeof(refusal) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            log_debug("a console client left before it was refused");
        if (client)
            free(client->queue);
        free(client);
        close(fd);
        return;
    }
    client->hub = hub;
    client->fd = fd;
    client->poll.data = client;
    client->next = hub->clients;
    hub->clients = client;
    hub->client_count++;
    client_settle(client);
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    struct console_hub *hub = poll->data;
    int fd;
    while ((fd = local_socket_accept(hub->listen_fd)) >= 0)
        client_add(hub, fd);
}

// ---- from the guest ----

static size_t ring_put(struct console_hub *hub, const uint8_t *bytes, size_t length)
{
    size_t head = atomic_load_explicit(&hub->head, memory_order_relaxed);
    size_t room = CONSOLE_RING_SIZE - (head - atomic_load(&hub->tail));
    size_t taken = length < room ? length : room;
    size_t at = head & (CONSOLE_RING_SIZE - 1);
    size_t first = CONSOLE_RING_SIZE - at < taken ? CONSOLE_RING_SIZE - at : taken;
    memcpy(hub->ring + at, bytes, first);
    memcpy(hub->ring, bytes + first, taken - first);
    // Publishes the bytes: without the release the consumer could see the position before them.
    atomic_store_explicit(&hub->head, head + taken, memory_order_release);
    return taken;
}

size_t console_hub_write(struct console_hub *hub, const uint8_t *bytes, size_t length)
{
    pthread_mutex_lock(&hub->producers);
    size_t taken = ring_put(hub, bytes, length);
    if (taken < length) {
        // Say so first, then look again: the consumer frees room first, then looks at the flag. In
        // any other order both could miss each other, and output_ready() would never come.
        atomic_store(&hub->starved, true);
        taken += ring_put(hub, bytes + taken, length - taken);
    }
    size_t held = atomic_load(&hub->head) - atomic_load(&hub->tail);
    pthread_mutex_unlock(&hub->producers);
    // Without this barrier the flag could be read before the bytes are seen by others: the loop
    // would find the ring empty, stop to collect, and nobody would wake it.
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load(&hub->collecting) || held > CONSOLE_RING_SIZE / 2)
        uv_async_send(&hub->wake);
    return taken;
}

void console_hub_input_ready(struct console_hub *hub)
{
    atomic_store(&hub->input_room, true);
    uv_async_send(&hub->wake);
}

// ---- the pump ----

// Moves one contiguous piece of the ring on; returns its length, 0 when nothing can be moved.
static size_t pump_piece(struct console_hub *hub)
{
    size_t tail = atomic_load_explicit(&hub->tail, memory_order_relaxed);
    size_t length = atomic_load_explicit(&hub->head, memory_order_acquire) - tail;
    size_t at = tail & (CONSOLE_RING_SIZE - 1);
    if (length > CONSOLE_RING_SIZE - at)
        length = CONSOLE_RING_SIZE - at;
    if (length && hub->foreground)
        length = hub->foreground->output(hub->foreground_opaque, hub->ring + at, length);
    if (!length)
        return 0;
    log_append(hub, hub->ring + at, length);
    for (struct client *client = hub->clients; client; client = client->next)
        client_output(client, hub->ring + at, length);
    atomic_store(&hub->tail, tail + length);
    if (atomic_exchange(&hub->starved, false) && hub->guest)
        hub->guest->output_ready(hub->guest_opaque);
    return length;
}

static bool ring_is_empty(const struct console_hub *hub)
{
    return atomic_load(&hub->head) == atomic_load(&hub->tail);
}

static void on_collect_timer(uv_timer_t *timer);

static void pump(struct console_hub *hub)
{
    size_t moved = 0, piece;
    while (moved < PUMP_LIMIT && (piece = pump_piece(hub)))
        moved += piece;
    if (moved >= PUMP_LIMIT)
        uv_async_send(&hub->wake);
    if (moved) {
        atomic_store(&hub->collecting, true);
        uv_timer_start(&hub->collect_timer, on_collect_timer, COLLECT_MS, 0);
        for (struct client *client = hub->clients, *next; client; client = next) {
            next = client->next;
            client_send(client);
            client_settle(client);
        }
    }
    drain_check(hub);
}

static void on_collect_timer(uv_timer_t *timer)
{
    struct console_hub *hub = timer->data;
    atomic_store(&hub->collecting, false);
    // What came before the flag was seen is moved now; a producer that comes later wakes the loop.
    atomic_thread_fence(memory_order_seq_cst);
    pump(hub);
}

static void offer_input(struct console_hub *hub)
{
    for (struct client *client = hub->clients, *next; client; client = next) {
        next = client->next;
        client_offer_input(client);
        client_settle(client);
    }
    if (hub->foreground)
        hub->foreground->input_ready(hub->foreground_opaque);
}

static void on_wake(uv_async_t *wake)
{
    struct console_hub *hub = wake->data;
    if (atomic_exchange(&hub->input_room, false))
        offer_input(hub);
    pump(hub);
}

// ---- the end ----

static void drain_end(struct console_hub *hub)
{
    void (*done)(void *) = hub->drained;
    uv_timer_stop(&hub->drain_timer);
    hub->drained = NULL;
    done(hub->drained_opaque);
}

static void drain_check(struct console_hub *hub)
{
    if (!hub->drained || !ring_is_empty(hub))
        return;
    for (struct client *client = hub->clients; client; client = client->next) {
        if (client->queue_length && uv_is_active((uv_handle_t *)&hub->drain_timer))
            return;
    }
    drain_end(hub);
}

static void on_drain_timer(uv_timer_t *timer)
{
    drain_check(timer->data); // the timer is not active any more: clients are not waited for
}

void console_hub_drain(struct console_hub *hub, void (*done)(void *opaque), void *opaque)
{
    hub->drained = done;
    hub->drained_opaque = opaque;
    uv_timer_start(&hub->drain_timer, on_drain_timer, DRAIN_CLIENTS_MS, 0);
    // Not from inside of this call: the caller may be in the middle of something.
    uv_async_send(&hub->wake);
}

// ---- connections ----

void console_hub_set_guest(struct console_hub *hub, const struct console_guest *guest, void *opaque)
{
    hub->guest = guest;
    hub->guest_opaque = opaque;
    console_hub_input_ready(hub);
}

void console_hub_set_foreground(struct console_hub *hub,
                                const struct console_foreground *foreground, void *opaque)
{
    hub->foreground = foreground;
    hub->foreground_opaque = opaque;
    uv_async_send(&hub->wake);
}

void console_hub_foreground_ready(struct console_hub *hub)
{
    pump(hub);
}

size_t console_hub_foreground_input(struct console_hub *hub, const uint8_t *bytes, size_t length)
{
    return guest_input(hub, bytes, length);
}

// ---- life ----

static void on_closed(uv_handle_t *handle)
{
    struct console_hub *hub = handle->data;
    if (--hub->open_handles)
        return;
    pthread_mutex_destroy(&hub->producers);
    free(hub);
}

static void close_handles(struct console_hub *hub)
{
    uv_close((uv_handle_t *)&hub->wake, on_closed);
    uv_close((uv_handle_t *)&hub->drain_timer, on_closed);
    uv_close((uv_handle_t *)&hub->collect_timer, on_closed);
    if (hub->listen_fd >= 0)
        uv_close((uv_handle_t *)&hub->listener, on_closed);
}

int console_hub_create(struct console_hub **out, uv_loop_t *loop, int log_fd, int listen_fd,
                       struct error *err)
{
    struct stat log_state = {0};
    if (log_fd >= 0 && fstat(log_fd, &log_state) != 0)
        return error_set_errno(err, errno, "console.log");
    struct console_hub *hub = calloc(1, sizeof(*hub));
    if (!hub)
        return error_set(err, ENOMEM, "console: out of memory");
    hub->loop = loop;
    hub->log_fd = log_fd;
    hub->listen_fd = listen_fd;
    hub->log_size = log_state.st_size;
    pthread_mutex_init(&hub->producers, NULL);

    int r = uv_async_init(loop, &hub->wake, on_wake);
    if (r)
        goto fail;
    uv_timer_init(loop, &hub->drain_timer);
    uv_timer_init(loop, &hub->collect_timer);
    hub->wake.data = hub->drain_timer.data = hub->collect_timer.data = hub->listener.data = hub;
    hub->open_handles = 3;
    if (listen_fd >= 0) {
        r = uv_poll_init(loop, &hub->listener, listen_fd);
        if (r) {
            hub->listen_fd = -1;
            close_handles(hub);
            return error_set_errno(err, -r, "console");
        }
        hub->open_handles++;
        uv_poll_start(&hub->listener, UV_READABLE, on_listener);
    }
    *out = hub;
    return 0;
fail:
    pthread_mutex_destroy(&hub->producers);
    free(hub);
    return error_set_errno(err, -r, "console");
}

void console_hub_destroy(struct console_hub *hub)
{
    if (!hub)
        return;
    while (hub->clients)
        client_close(hub->clients);
    if (hub->listen_fd >= 0) {
        uv_poll_stop(&hub->listener);
        close(hub->listen_fd);
    }
    if (hub->log_fd >= 0)
        close(hub->log_fd);
    close_handles(hub);
}
