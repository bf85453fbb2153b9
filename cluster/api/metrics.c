#include "cluster/api/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cluster/member/connection.h"

enum {
    CONNECTIONS_LIMIT = 8,
    REQUEST_LIMIT = 4096,
    PATIENCE_MS = 5000, // for all of a request and its answer
    BACKLOG = 8,
};

struct metrics_connection {
    struct metrics_connection *next;
    struct metrics *metrics;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_work_t work;
    uv_write_t write;
    char request[REQUEST_LIMIT + 1];
    size_t length;
    char *answer;
    unsigned open; // handles
    bool working, closing;
};

// ---- the end of a connection ----

static void forget(struct metrics_connection *connection)
{
    struct metrics_connection **at = &connection->metrics->list;
    if (connection->open || connection->working)
        return;
    while (*at != connection)
        at = &(*at)->next;
    *at = connection->next;
    connection->metrics->connections--;
    free(connection->answer);
    free(connection);
}

static void closed(uv_handle_t *handle)
{
    struct metrics_connection *connection = handle->data;
    connection->open--;
    forget(connection);
}

static void close_connection(struct metrics_connection *connection)
{
    if (connection->closing)
        return;
    connection->closing = true;
    uv_close((uv_handle_t *)&connection->tcp, closed);
    uv_close((uv_handle_t *)&connection->timer, closed);
}

static void too_slow(uv_timer_t *timer)
{
    close_connection(timer->data);
}

// ---- answering ----

static void written(uv_write_t *write, int status)
{
    (void)status;
    close_connection(write->data);
}

static void send_answer(struct metrics_connection *connection, const char *status, const char *type,
                        const char *body)
{
    size_t size = strlen(body) + 256;
    free(connection->answer);
    connection->answer = malloc(size);
    if (!connection->answer) {
        close_connection(connection);
        return;
    }
    int n = snprintf(connection->answer, size,
                     "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\n\r\n%s",
                     status, type, strlen(body), body);
    uv_buf_t buffer = uv_buf_init(connection->answer, (unsigned)n);
    connection->write.data = connection;
    if (uv_write(&connection->write, (uv_stream_t *)&connection->tcp, &buffer, 1, written))
        close_connection(connection);
}

// A thread of the pool: the store may let one wait.
static void collect(uv_work_t *work)
{
    struct metrics_connection *connection = work->data;
    const struct metrics *metrics = connection->metrics;
    struct api_call call = {.api = metrics->api};
    call.exchange = (struct exchange){
        .local = metrics->api->store,
        .certificate = metrics->api->certificate,
        .key = metrics->api->key,
        .ca = metrics->api->ca,
        .timeout_ns = 3 * NSEC_PER_SEC,
    };
    record_view_init(&call.view);
    const struct metrics_own own = {
        .host = metrics->api->host,
        .manages = atomic_load(metrics->manages),
        .starts = atomic_load(&metrics->agent->counters.starts),
        .moves_done = atomic_load(&metrics->agent->counters.moves_done),
        .moves_aborted = atomic_load(&metrics->agent->counters.moves_aborted),
    };
    bool readable = exchange_read(&call.exchange, &call.view, &call.err) == 0;
    // Of a member without a leader all the more.
    json_t *member = metrics->api->client_host ? NULL : api_store_status(&call);
    connection->answer = metrics_text(&own, readable ? &call.view : NULL, member);
    json_decref(member);
    record_view_free(&call.view);
    exchange_close(&call.exchange);
}

static void collected(uv_work_t *work, int status)
{
    struct metrics_connection *connection = work->data;
    (void)status;
    connection->working = false;
    char *text = connection->answer;
    connection->answer = NULL;
    if (connection->closing)
        forget(connection);
    else if (text)
        send_answer(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8", text);
    else
        close_connection(connection);
    free(text);
}

static void answer(struct metrics_connection *connection)
{
    const char *path = connection->request + 4;
    if (strncmp(connection->request, "GET ", 4) != 0) {
        send_answer(connection, "405 Method Not Allowed", "text/plain", "only GET\n");
        return;
    }
    if (strncmp(path, "/metrics", 8) != 0 || !strchr(" ?", path[8])) {
        send_answer(connection, "404 Not Found", "text/plain", "it is /metrics\n");
        return;
    }
    connection->work.data = connection;
    connection->working =
        uv_queue_work(connection->metrics->loop, &connection->work, collect, collected) == 0;
    if (!connection->working)
        close_connection(connection);
}

// ---- requests ----

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct metrics_connection *connection = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(connection->request + connection->length,
                          (unsigned)(REQUEST_LIMIT - connection->length));
}

static void received(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    struct metrics_connection *connection = stream->data;
    (void)buffer;
    if (n < 0) { // an end, an error, or more than a request may be
        close_connection(connection);
        return;
    }
    connection->length += (size_t)n;
    connection->request[connection->length] = 0;
    if (strstr(connection->request, "\r\n\r\n") || strstr(connection->request, "\n\n")) {
        uv_read_stop(stream);
        answer(connection);
    }
}

static void accept_connection(uv_stream_t *listener, int status)
{
    struct metrics *metrics = listener->data;
    struct metrics_connection *connection = status ? NULL : calloc(1, sizeof(*connection));
    if (!connection)
        return;
    connection->metrics = metrics;
    connection->next = metrics->list;
    metrics->list = connection;
    metrics->connections++;
    connection->open = 2;
    uv_tcp_init(metrics->loop, &connection->tcp);
    uv_timer_init(metrics->loop, &connection->timer);
    connection->tcp.data = connection->timer.data = connection;
    uv_timer_start(&connection->timer, too_slow, PATIENCE_MS, 0);
    if (uv_accept(listener, (uv_stream_t *)&connection->tcp) ||
        metrics->connections > CONNECTIONS_LIMIT ||
        uv_read_start((uv_stream_t *)&connection->tcp, give_buffer, received))
        close_connection(connection);
}

int metrics_start(struct metrics *metrics, uv_loop_t *loop, const char *address, struct error *err)
{
    char host[256], port[16];
    struct sockaddr_storage place;
    metrics->loop = loop;
    if (!connection_address_split(address, host, port))
        return error_set(err, EINVAL, "'%s' is not HOST:PORT", address);
    int number = atoi(port);
    int r = uv_ip4_addr(host, number, (struct sockaddr_in *)&place);
    if (r)
        r = uv_ip6_addr(host, number, (struct sockaddr_in6 *)&place);
    if (r)
        return error_set(err, EINVAL, "'%s': metrics are given at a numeric address", address);
    uv_tcp_init(loop, &metrics->listener);
    metrics->listener.data = metrics;
    metrics->listening = true;
    r = uv_tcp_bind(&metrics->listener, (const struct sockaddr *)&place, 0);
    if (!r)
        r = uv_listen((uv_stream_t *)&metrics->listener, BACKLOG, accept_connection);
    return r ? error_set(err, -r, "metrics at '%s': %s", address, uv_strerror(r)) : 0;
}

void metrics_stop(struct metrics *metrics)
{
    if (!metrics->listening)
        return;
    metrics->listening = false;
    uv_close((uv_handle_t *)&metrics->listener, NULL);
    for (struct metrics_connection *one = metrics->list; one; one = one->next)
        close_connection(one);
}
