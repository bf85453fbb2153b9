// Load on a store, for comparison: CLIENTS connections, each with one request at a time, puts of
// 256 bytes or linearizable reads. Speaks ferry's protocol, or etcd's gRPC (KV/Put and KV/Range
// over HTTP/2 by nghttp2, since Debian has no etcd client library for C). Prints one line of JSON.
//
// "gap" is one client that puts all the time, at whichever of the ADDRESSES answers: the longest
// time between two writes that were done, for when somebody kills the leader meanwhile. "watch" has
// CLIENTS watches of one key on ten connections: the time from a put to the last of them.
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "cluster/store/async.h"
#include "cluster/store/client.h"

enum { CLIENTS_MAX = 1024, VALUE_BYTES = 256, KEYS = 10000, WATCH_CONNECTIONS = 10 };
enum { RETRY_US = 5000 };

struct load {
    pthread_t thread;
    unsigned number;
    uint32_t *latencies; // microseconds
    size_t count, room;
    uint64_t errors;
};

static const char *system_name, *address, *work_name;
static bool reads;
static uint64_t end_time;
static pthread_barrier_t barrier;

static void make_key(char key[32], unsigned client, uint64_t n)
{
    snprintf(key, 32, "bench/%03u/%05" PRIu64, client, n % KEYS);
}

static void note(struct load *load, uint64_t started, bool fine)
{
    if (!fine) {
        load->errors++;
        return;
    }
    if (load->count == load->room) {
        size_t room = load->room ? load->room * 2 : 4096;
        uint32_t *more = realloc(load->latencies, room * sizeof(*more));
        if (!more)
            return;
        load->latencies = more;
        load->room = room;
    }
    load->latencies[load->count++] = (uint32_t)((clock_monotonic_ns() - started) / 1000);
}

static void run_ferry(struct load *load)
{
    static const uint8_t value[VALUE_BYTES] = {1};
    struct store_client *client;
    struct error err;
    char key[32];
    if (store_client_create(&client, address, &err))
        return;
    for (uint64_t n = 0; clock_monotonic_ns() < end_time; n++) {
        make_key(key, load->number, n);
        struct store_op op = {.kind = reads ? STORE_RANGE : STORE_PUT,
                              .key = store_string(key),
                              .value = {value, reads ? 0 : sizeof(value)}};
        struct store_txn txn = {.then = &op, .then_count = 1};
        struct store_result result = {0};
        uint64_t started = clock_monotonic_ns();
        bool fine =
            store_client_txn(client, &txn, false, &result, &err) == 0 && result.status == STORE_OK;
        note(load, started, fine);
        store_result_free(&result);
    }
    store_client_destroy(client);
}

// --- etcd
// -------------------------------------------------------------------------------------------

// A gRPC message: flag, length, then the protobuf: field 1 the key, field 2 the value (of a put).
static size_t encode_grpc(uint8_t *out, const char *key)
{
    size_t key_length = strlen(key), at = 5;
    out[at++] = 1 << 3 | 2;
    out[at++] = (uint8_t)key_length;
    memcpy(out + at, key, key_length);
    at += key_length;
    if (!reads) {
        out[at++] = 2 << 3 | 2;
        out[at++] = 0x80 | (VALUE_BYTES & 0x7f);
        out[at++] = VALUE_BYTES >> 7;
        memset(out + at, 1, VALUE_BYTES);
        at += VALUE_BYTES;
    }
    size_t message = at - 5;
    memset(out, 0, 3);
    out[3] = (uint8_t)(message >> 8);
    out[4] = (uint8_t)message;
    return at;
}

// One connection with one request at a time; the socket blocks.
struct grpc {
    int fd;
    nghttp2_session *session;
    uint8_t body[1024];
    size_t length, sent, received;
    bool closed; // the stream of the request
};

static ssize_t grpc_send(nghttp2_session *session, const uint8_t *bytes, size_t length, int flags,
                         void *opaque)
{
    struct grpc *grpc = opaque;
    ssize_t n = send(grpc->fd, bytes, length, MSG_NOSIGNAL);
    return n < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : n;
}

static int grpc_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes,
                     size_t length, void *opaque)
{
    ((struct grpc *)opaque)->received += length;
    return 0;
}

static int grpc_stream_closed(nghttp2_session *session, int32_t stream, uint32_t code, void *opaque)
{
    ((struct grpc *)opaque)->closed = true;
    return 0;
}

static ssize_t grpc_body(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *opaque)
{
    struct grpc *grpc = opaque;
    size_t part = grpc->length - grpc->sent < room ? grpc->length - grpc->sent : room;
    memcpy(out, grpc->body + grpc->sent, part);
    grpc->sent += part;
    if (grpc->sent == grpc->length)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)part;
}

static bool grpc_connect(struct grpc *grpc, const char *where)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    nghttp2_session_callbacks *callbacks;
    char host[256], port[16];
    int one = 1;
    const char *colon = strchr(where, ':');
    snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
    snprintf(port, sizeof(port), "%.*s", (int)strcspn(colon + 1, ","), colon + 1);
    if (getaddrinfo(host, port, &hints, &found))
        return false;
    grpc->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = connect(grpc->fd, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    if (failed) {
        close(grpc->fd);
        return false;
    }
    setsockopt(grpc->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_send_callback(callbacks, grpc_send);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, grpc_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, grpc_stream_closed);
    nghttp2_session_client_new(&grpc->session, callbacks, grpc);
    nghttp2_session_callbacks_del(callbacks);
    return nghttp2_submit_settings(grpc->session, NGHTTP2_FLAG_NONE, NULL, 0) == 0;
}

#define HEADER(name, value)                                                                        \
    {                                                                                              \
        (uint8_t *)(name), (uint8_t *)(value), strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE   \
    }

// A successful answer has a message; an error has trailers alone.
static bool grpc_call(struct grpc *grpc, const char *path)
{
    nghttp2_nv headers[] = {
        HEADER(":method", "POST"),
        HEADER(":scheme", "http"),
        HEADER(":path", path),
        HEADER(":authority", address),
        HEADER("content-type", "application/grpc"),
        HEADER("te", "trailers"),
    };
    nghttp2_data_provider provider = {.read_callback = grpc_body};
    uint8_t buffer[16384];
    grpc->sent = grpc->received = 0;
    grpc->closed = false;
    if (nghttp2_submit_request(grpc->session, NULL, headers, 6, &provider, NULL) < 0)
        return false;
    while (!grpc->closed) {
        if (nghttp2_session_send(grpc->session))
            return false;
        ssize_t n = recv(grpc->fd, buffer, sizeof(buffer), 0);
        if (n <= 0 || nghttp2_session_mem_recv(grpc->session, buffer, (size_t)n) < 0)
            return false;
    }
    return grpc->received > 5;
}

static void run_etcd(struct load *load)
{
    struct grpc grpc = {.fd = -1};
    const char *path = reads ? "/etcdserverpb.KV/Range" : "/etcdserverpb.KV/Put";
    char key[32];
    if (!grpc_connect(&grpc, address)) {
        load->errors++;
        return;
    }
    for (uint64_t n = 0; clock_monotonic_ns() < end_time; n++) {
        make_key(key, load->number, n);
        grpc.length = encode_grpc(grpc.body, key);
        uint64_t started = clock_monotonic_ns();
        bool fine = grpc_call(&grpc, path);
        note(load, started, fine);
        if (!fine)
            break;
    }
    nghttp2_session_del(grpc.session);
    close(grpc.fd);
}

// --- The longest gap
// --------------------------------------------------------------------------------

static uint64_t last_done, longest;

static void note_done(void)
{
    uint64_t now = clock_monotonic_ns();
    if (last_done && now - last_done > longest)
        longest = now - last_done;
    last_done = now;
}

static void gap_ferry(void)
{
    struct store_client *client;
    struct error err;
    struct store_op op = {.kind = STORE_PUT, .key = store_string("gap")};
    struct store_txn txn = {.then = &op, .then_count = 1};
    if (store_client_create(&client, address, &err))
        return;
    while (clock_monotonic_ns() < end_time) {
        struct store_result result = {0};
        if (store_client_txn(client, &txn, false, &result, &err) == 0 && result.status == STORE_OK)
            note_done();
        store_result_free(&result);
    }
    store_client_destroy(client);
}

static void gap_etcd(void)
{
    const char *where = address;
    while (clock_monotonic_ns() < end_time) {
        struct timeval patience = {.tv_usec = 100000};
        struct grpc grpc = {.fd = -1};
        if (grpc_connect(&grpc, where)) {
            setsockopt(grpc.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
            for (;;) {
                grpc.length = encode_grpc(grpc.body, "gap");
                if (clock_monotonic_ns() >= end_time || !grpc_call(&grpc, "/etcdserverpb.KV/Put"))
                    break;
                note_done();
            }
            nghttp2_session_del(grpc.session);
            close(grpc.fd);
        }
        where += strcspn(where, ",");
        where = *where ? where + 1 : address;
        usleep(RETRY_US);
    }
}

// --- Watches
// ----------------------------------------------------------------------------------------

static unsigned watch_count, told;
static uint64_t put_at;
static struct load watch_load;

static void next_put_ferry(struct store_async *async);

static struct store_async *putter;
static uv_loop_t watch_loop;

static void one_was_told(void *context, uint64_t revision, const struct store_event *events,
                         size_t count)
{
    told += (unsigned)count;
    if (told < watch_count)
        return;
    note(&watch_load, put_at, true);
    if (clock_monotonic_ns() < end_time)
        next_put_ferry(putter);
    else
        uv_stop(&watch_loop);
}

static void watch_ended(void *context, enum store_status status, uint64_t oldest)
{
    watch_load.errors++;
}

static void put_done(void *context, const struct store_result *result)
{
    watch_load.errors += result->status != STORE_OK;
}

static void next_put_ferry(struct store_async *async)
{
    static const uint8_t value[VALUE_BYTES] = {1};
    struct store_op op = {
        .kind = STORE_PUT, .key = store_string("watched"), .value = {value, sizeof(value)}};
    struct store_txn txn = {.then = &op, .then_count = 1};
    told = 0;
    put_at = clock_monotonic_ns();
    store_async_txn(async, &txn, false, put_done, NULL);
}

static void watches_are_there(void *context, const struct store_result *result)
{
    unsigned *ready = context;
    if (++*ready == WATCH_CONNECTIONS)
        next_put_ferry(putter);
}

static void watch_ferry(void)
{
    static const struct store_watch_callbacks callbacks = {.events = one_was_told,
                                                           .ended = watch_ended};
    struct store_async_options options = {.addresses = address, .timeout_ns = 30 * NSEC_PER_SEC};
    struct store_op nothing = {.kind = STORE_RANGE, .key = store_string("nothing")};
    struct store_txn read = {.then = &nothing, .then_count = 1};
    struct store_async *asyncs[WATCH_CONNECTIONS];
    struct error err;
    unsigned ready = 0;
    uv_loop_init(&watch_loop);
    for (unsigned i = 0; i < WATCH_CONNECTIONS; i++) {
        if (store_async_create(&asyncs[i], &watch_loop, &options, &err))
            return;
        for (unsigned w = i; w < watch_count; w += WATCH_CONNECTIONS)
            store_async_watch(asyncs[i], store_string("watched"), STORE_ONE,
                              (struct store_bytes){0}, 0, &callbacks, NULL);
        store_async_txn(asyncs[i], &read, false, watches_are_there, &ready); // behind the watches
    }
    if (store_async_create(&putter, &watch_loop, &options, &err))
        return;
    uv_run(&watch_loop, UV_RUN_DEFAULT);
}

// A stream of watches: all that are asked for go out in one body that doesn't end.
struct stream {
    struct grpc grpc;
    uint8_t *requests;
    size_t length, sent, in_length;
    uint8_t in[1 << 16];
    unsigned created, events;
};

static ssize_t stream_body(nghttp2_session *session, int32_t id, uint8_t *out, size_t room,
                           uint32_t *flags, nghttp2_data_source *source, void *opaque)
{
    struct stream *stream = opaque;
    size_t part = stream->length - stream->sent < room ? stream->length - stream->sent : room;
    if (part == 0)
        return NGHTTP2_ERR_DEFERRED;
    memcpy(out, stream->requests + stream->sent, part);
    stream->sent += part;
    return (ssize_t)part;
}

static size_t skip_varint(const uint8_t *bytes, size_t at, size_t end, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; at < end; shift += 7) {
        *value |= (uint64_t)(bytes[at] & 0x7f) << shift;
        if (!(bytes[at++] & 0x80))
            break;
    }
    return at;
}

// A WatchResponse: field 3 says that a watch was made, each field 11 is an event.
static void take_response(struct stream *stream, const uint8_t *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        uint64_t tag, number;
        at = skip_varint(bytes, at, length, &tag);
        at = skip_varint(bytes, at, length, &number);
        if ((tag & 7) == 2)
            at += number;
        stream->created += tag == (3 << 3) && number;
        stream->events += tag == (11 << 3 | 2);
    }
}

static int stream_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                       size_t length, void *opaque)
{
    struct stream *stream = opaque;
    if (length > sizeof(stream->in) - stream->in_length)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(stream->in + stream->in_length, bytes, length);
    stream->in_length += length;
    for (;;) {
        const uint8_t *in = stream->in;
        size_t size = (size_t)in[1] << 24 | (size_t)in[2] << 16 | (size_t)in[3] << 8 | in[4];
        if (stream->in_length < 5 || stream->in_length < 5 + size)
            return 0;
        take_response(stream, in + 5, size);
        stream->in_length -= 5 + size;
        memmove(stream->in, stream->in + 5 + size, stream->in_length);
    }
}

// WatchRequest { create_request { key: "watched" } }
static const uint8_t watch_request[] = {0, 0,   0,   0,   11,  10,  9,   10,
                                        7, 'w', 'a', 't', 'c', 'h', 'e', 'd'};

static bool stream_begin(struct stream *stream, unsigned watches)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_nv headers[] = {
        HEADER(":method", "POST"),
        HEADER(":scheme", "http"),
        HEADER(":path", "/etcdserverpb.Watch/Watch"),
        HEADER(":authority", address),
        HEADER("content-type", "application/grpc"),
        HEADER("te", "trailers"),
    };
    nghttp2_data_provider provider = {.read_callback = stream_body};
    if (!grpc_connect(&stream->grpc, address))
        return false;
    nghttp2_session_del(stream->grpc.session); // its callbacks are another kind's
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_send_callback(callbacks, grpc_send);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, stream_data);
    nghttp2_session_client_new(&stream->grpc.session, callbacks, stream);
    nghttp2_session_callbacks_del(callbacks);
    stream->requests = malloc(watches * sizeof(watch_request) + 1);
    for (unsigned i = 0; stream->requests && i < watches; i++)
        memcpy(stream->requests + i * sizeof(watch_request), watch_request, sizeof(watch_request));
    stream->length = watches * sizeof(watch_request);
    return nghttp2_submit_settings(stream->grpc.session, NGHTTP2_FLAG_NONE, NULL, 0) == 0 &&
           nghttp2_submit_request(stream->grpc.session, NULL, headers, 6, &provider, NULL) >= 0 &&
           nghttp2_session_send(stream->grpc.session) == 0;
}

// Reads until all streams together have `events`, or made `created` watches.
static bool read_streams(struct stream *streams, unsigned created, unsigned events)
{
    struct pollfd polled[WATCH_CONNECTIONS];
    uint8_t buffer[16384];
    for (;;) {
        unsigned made = 0, seen = 0;
        for (unsigned i = 0; i < WATCH_CONNECTIONS; i++) {
            polled[i] = (struct pollfd){.fd = streams[i].grpc.fd, .events = POLLIN};
            made += streams[i].created;
            seen += streams[i].events;
        }
        if (made >= created && seen >= events)
            return true;
        if (poll(polled, WATCH_CONNECTIONS, 10000) <= 0)
            return false;
        for (unsigned i = 0; i < WATCH_CONNECTIONS; i++) {
            if (!polled[i].revents)
                continue;
            ssize_t n = recv(streams[i].grpc.fd, buffer, sizeof(buffer), 0);
            if (n <= 0 ||
                nghttp2_session_mem_recv(streams[i].grpc.session, buffer, (size_t)n) < 0 ||
                nghttp2_session_send(streams[i].grpc.session))
                return false;
        }
    }
}

static void watch_etcd(void)
{
    static struct stream streams[WATCH_CONNECTIONS];
    struct grpc grpc = {.fd = -1};
    unsigned events = 0;
    for (unsigned i = 0; i < WATCH_CONNECTIONS; i++)
        if (!stream_begin(&streams[i],
                          (watch_count + WATCH_CONNECTIONS - 1 - i) / WATCH_CONNECTIONS))
            return;
    if (!grpc_connect(&grpc, address) || !read_streams(streams, watch_count, 0))
        return;
    while (clock_monotonic_ns() < end_time) {
        uint64_t started = clock_monotonic_ns();
        grpc.length = encode_grpc(grpc.body, "watched");
        bool fine = grpc_call(&grpc, "/etcdserverpb.KV/Put") &&
                    read_streams(streams, 0, events += watch_count);
        note(&watch_load, started, fine);
        if (!fine)
            return;
    }
}

static void *load_main(void *argument)
{
    pthread_barrier_wait(&barrier);
    if (strcmp(system_name, "etcd") == 0)
        run_etcd(argument);
    else
        run_ferry(argument);
    return NULL;
}

static int compare_latency(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print_result(struct load *loads, unsigned clients, double seconds)
{
    size_t total = 0, at = 0;
    uint64_t errors = 0;
    for (unsigned i = 0; i < clients; i++) {
        total += loads[i].count;
        errors += loads[i].errors;
    }
    uint32_t *all = malloc((total + 1) * sizeof(*all));
    if (!all)
        return;
    for (unsigned i = 0; i < clients; i++) {
        if (loads[i].count)
            memcpy(all + at, loads[i].latencies, loads[i].count * sizeof(*all));
        at += loads[i].count;
    }
    all[total] = 0;
    qsort(all, total, sizeof(*all), compare_latency);
    printf("{\"system\": \"%s\", \"work\": \"%s\", \"clients\": %u, \"per_second\": %.0f, "
           "\"p50_us\": %u, \"p99_us\": %u, \"p999_us\": %u, \"errors\": %" PRIu64 "}\n",
           system_name, work_name, clients, (double)total / seconds, all[total / 2],
           all[total * 99 / 100], all[total * 999 / 1000], errors);
    free(all);
}

int main(int argc, char **argv)
{
    static struct load loads[CLIENTS_MAX];
    unsigned clients = argc == 6 ? (unsigned)atoi(argv[4]) : 0;
    if (clients == 0 || clients > CLIENTS_MAX) {
        fprintf(stderr,
                "usage: store_load ferry|etcd ADDRESS put|read|gap|watch CLIENTS SECONDS\n");
        return 2;
    }
    system_name = argv[1];
    address = argv[2];
    work_name = argv[3];
    reads = strcmp(work_name, "read") == 0;
    bool etcd = strcmp(system_name, "etcd") == 0;
    uint64_t seconds = strtoull(argv[5], NULL, 10);
    pthread_barrier_init(&barrier, NULL, clients);
    end_time = clock_monotonic_ns() + seconds * NSEC_PER_SEC;
    if (strcmp(work_name, "gap") == 0) {
        (etcd ? gap_etcd : gap_ferry)();
        printf("{\"system\": \"%s\", \"work\": \"gap\", \"gap_ms\": %.1f}\n", system_name,
               (double)longest / 1e6);
        return longest == 0;
    }
    if (strcmp(work_name, "watch") == 0) {
        watch_count = clients;
        (etcd ? watch_etcd : watch_ferry)();
        print_result(&watch_load, 1, (double)seconds);
        return watch_load.count == 0;
    }
    for (unsigned i = 0; i < clients; i++) {
        loads[i].number = i;
        pthread_create(&loads[i].thread, NULL, load_main, &loads[i]);
    }
    for (unsigned i = 0; i < clients; i++)
        pthread_join(loads[i].thread, NULL);
    print_result(loads, clients, (double)seconds);
    return 0;
}
