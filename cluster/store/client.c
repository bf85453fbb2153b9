#include "cluster/store/client.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/tls.h"
#include "cluster/member/connection.h"

enum { ADDRESSES_MAX = 16, RETRY_NS = 50000000 };

struct store_client {
    char addresses[ADDRESSES_MAX][MEMBER_ADDRESS_SIZE];
    unsigned count, next;
    char hint[MEMBER_ADDRESS_SIZE]; // where the leader is said to be
    int fd;
    uint64_t timeout;
    uint64_t request;
    bool sticky;
    struct byte_writer in; // what has come
    size_t taken;          // of it, the frame given out last
    struct tls_credentials *credentials;
    gnutls_session_t session;
    bool pinned;
    uint8_t pin[TLS_FINGERPRINT_BYTES];
    char *tls_name;                     // what the member's certificate must be for, or NULL
    char tls_failure[TLS_FAILURE_SIZE]; // why the last TLS session failed
};

int store_client_create(struct store_client **out, const char *addresses, struct error *err)
{
    struct store_client *client = calloc(1, sizeof(*client));
    if (!client)
        return error_set(err, ENOMEM, "store client: out of memory");
    client->fd = -1;
    client->timeout = 5 * NSEC_PER_SEC;
    byte_writer_init(&client->in);
    while (*addresses) {
        size_t length = strcspn(addresses, ",");
        if (length == 0 || length >= MEMBER_ADDRESS_SIZE || client->count == ADDRESSES_MAX) {
            free(client);
            return error_set(err, EINVAL, "'%s': not a list of addresses HOST:PORT or unix:PATH",
                             addresses);
        }
        memcpy(client->addresses[client->count++], addresses, length);
        addresses += length + (addresses[length] == ',');
    }
    *out = client;
    return 0;
}

int store_client_set_tls(struct store_client *client, const char *certificate, const char *key,
                         const char *ca, struct error *err)
{
    return tls_credentials_load(&client->credentials, tls_source(certificate), tls_source(key),
                                tls_source(ca), err);
}

int store_client_set_pin(struct store_client *client,
                         const uint8_t fingerprint[TLS_FINGERPRINT_BYTES], struct error *err)
{
    client->pinned = true;
    memcpy(client->pin, fingerprint, sizeof(client->pin));
    return tls_credentials_none(&client->credentials, err);
}

int store_client_set_tls_name(struct store_client *client, const char *name, struct error *err)
{
    free(client->tls_name);
    client->tls_name = strdup(name);
    return client->tls_name ? 0 : error_set(err, ENOMEM, "store client: out of memory");
}

void store_client_set_timeout(struct store_client *client, uint64_t ns)
{
    client->timeout = ns;
}

void store_client_set_sticky(struct store_client *client, bool sticky)
{
    client->sticky = sticky;
}

static void disconnect(struct store_client *client)
{
    if (client->session)
        gnutls_deinit(client->session);
    client->session = NULL;
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    byte_writer_reset(&client->in);
    client->taken = 0;
}

void store_client_leave(struct store_client *client)
{
    disconnect(client);
}

void store_client_destroy(struct store_client *client)
{
    if (!client)
        return;
    disconnect(client);
    tls_credentials_free(client->credentials);
    free(client->tls_name);
    byte_writer_free(&client->in);
    free(client);
}

int store_client_descriptor(const struct store_client *client)
{
    return client->fd;
}

// 0 when ready, -ETIMEDOUT at the deadline.
static int wait_for(int fd, short events, uint64_t deadline)
{
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        struct pollfd poll_one = {.fd = fd, .events = events};
        if (now >= deadline)
            return -ETIMEDOUT;
        uint64_t left = (deadline - now) / NSEC_PER_MSEC + 1;
        int ready = poll(&poll_one, 1, left > 60000 ? 60000 : (int)left);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
    }
}

static int connect_socket(int fd, const struct sockaddr *address, socklen_t length,
                          uint64_t deadline)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (connect(fd, address, length) == 0)
        return 0;
    if (errno != EINPROGRESS && errno != EAGAIN)
        return -errno;
    int waited = wait_for(fd, POLLOUT, deadline);
    if (waited)
        return waited;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -errno;
    return -error;
}

static int connect_unix(struct store_client *client, const char *path, uint64_t deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return -errno;
    return connect_socket(client->fd, (struct sockaddr *)&address, sizeof(address), deadline);
}

static int connect_tcp(struct store_client *client, const char *where, uint64_t deadline)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[256], port[16];
    int one = 1;
    if (!connection_address_split(where, host, port))
        return -EINVAL;
    if (getaddrinfo(host, port, &hints, &found))
        return -EHOSTUNREACH;
    client->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = client->fd < 0
                    ? -errno
                    : connect_socket(client->fd, found->ai_addr, found->ai_addrlen, deadline);
    freeaddrinfo(found);
    if (!error)
        setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return error;
}

static int begin_tls(struct store_client *client, uint64_t deadline)
{
    int opened = tls_session_open(&client->session, client->credentials, false, GNUTLS_NONBLOCK,
                                  client->tls_name);
    if (opened) {
        client->session = NULL;
        return opened;
    }
    if (client->pinned)
        tls_session_pin(client->session, client->pin);
    gnutls_transport_set_int(client->session, client->fd);
    for (;;) {
        int code = gnutls_handshake(client->session);
        if (code == GNUTLS_E_SUCCESS)
            return 0;
        if (gnutls_error_is_fatal(code)) {
            gnutls_alert_send_appropriate(client->session, code);
            tls_describe_failure(client->session, code, client->tls_failure);
            return -EPROTO;
        }
        int error = wait_for(
            client->fd, gnutls_record_get_direction(client->session) ? POLLOUT : POLLIN, deadline);
        if (error)
            return error;
    }
}

static int connect_to(struct store_client *client, const char *where, uint64_t deadline)
{
    bool is_unix = strncmp(where, "unix:", 5) == 0;
    disconnect(client);
    client->tls_failure[0] = 0;
    int error =
        is_unix ? connect_unix(client, where + 5, deadline) : connect_tcp(client, where, deadline);
    if (!error && !is_unix && client->credentials)
        error = begin_tls(client, deadline);
    if (error)
        disconnect(client);
    return error;
}

static int connect_any(struct store_client *client, uint64_t deadline, struct error *err)
{
    char where[MEMBER_ADDRESS_SIZE];
    if (client->fd >= 0)
        return 0;
    if (client->hint[0]) {
        memcpy(where, client->hint, sizeof(where));
        client->hint[0] = 0;
    } else {
        memcpy(where, client->addresses[client->next % client->count], sizeof(where));
        client->next++;
    }
    // One dead member must not use up the time for the others.
    uint64_t soon = clock_monotonic_ns() + NSEC_PER_SEC;
    int error = connect_to(client, where, soon < deadline ? soon : deadline);
    if (error && client->tls_failure[0])
        return error_set(err, EPROTO, "store: no connection to %s: TLS: %s", where,
                         client->tls_failure);
    if (error)
        return error_set_errno(err, -error, "store: no connection to %s", where);
    return 0;
}

static int send_all(struct store_client *client, const uint8_t *bytes, size_t length,
                    uint64_t deadline)
{
    while (length) {
        ssize_t n = client->session ? gnutls_record_send(client->session, bytes, length)
                                    : send(client->fd, bytes, length, MSG_NOSIGNAL);
        bool again = client->session ? n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED
                                     : n < 0 && (errno == EAGAIN || errno == EINTR);
        if (n <= 0 && !again)
            return -EPIPE;
        if (again) {
            int error = wait_for(client->fd, POLLOUT, deadline);
            if (error)
                return error;
            continue;
        }
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

static int receive_some(struct store_client *client, uint64_t deadline)
{
    uint8_t buffer[65536];
    // An answer takes a while: looking for it at once would be for nothing. (TLS may have some
    // left.)
    int waited = client->session ? 0 : wait_for(client->fd, POLLIN, deadline);
    if (waited)
        return waited;
    for (;;) {
        ssize_t n = client->session ? gnutls_record_recv(client->session, buffer, sizeof(buffer))
                                    : recv(client->fd, buffer, sizeof(buffer), 0);
        bool again = client->session ? n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED
                                     : n < 0 && (errno == EAGAIN || errno == EINTR);
        if (n > 0) {
            byte_writer_bytes(&client->in, buffer, (size_t)n);
            return client->in.failed ? -ENOMEM : 0;
        }
        if (!again && client->session && n < 0)
            tls_describe_failure(client->session, (int)n, client->tls_failure);
        if (!again)
            return -ECONNRESET;
        int error = wait_for(client->fd, POLLIN, deadline);
        if (error)
            return error;
    }
}

// A member that speaks TLS answers plain text with an alert: a record of type 21, version 3.x.
static bool was_answered_in_tls(const struct store_client *client)
{
    const struct byte_writer *in = &client->in;
    return !client->session && in->length >= 2 && in->data[0] == 21 && in->data[1] == 3;
}

static int connection_lost(struct store_client *client, int error, struct error *err)
{
    bool tls = was_answered_in_tls(client);
    disconnect(client);
    if (tls)
        return error_set(err, EPROTO,
                         "store: the member speaks TLS: give --tls-cert, --tls-key and --tls-ca");
    if (client->tls_failure[0])
        return error_set(err, EPROTO, "store: TLS: %s", client->tls_failure);
    return error_set_errno(err, -error, "store: the connection is lost");
}

int store_client_next(struct store_client *client, uint64_t timeout_ns, uint16_t *type,
                      struct byte_reader *payload, struct error *err)
{
    uint64_t deadline = clock_monotonic_ns() + timeout_ns;
    struct byte_writer *in = &client->in;
    if (client->fd < 0)
        return error_set(err, ENOTCONN, "store: not connected");
    for (;;) {
        if (client->taken) {
            memmove(in->data, in->data + client->taken, in->length - client->taken);
            in->length -= client->taken;
            client->taken = 0;
        }
        long length = in->length ? connection_frame_check(in->data, in->length, type) : 0;
        if (length < 0) {
            disconnect(client);
            return error_set(err, EBADMSG, "store: the answer is damaged or of another version");
        }
        if (length > 0) {
            client->taken = (size_t)length;
            byte_reader_init(payload, in->data + CONNECTION_HEADER,
                             (size_t)length - CONNECTION_HEADER);
            if (byte_reader_u64(payload) == client->request && !payload->failed)
                return 0;
            continue; // of a request that nobody waits for any more
        }
        int error = receive_some(client, deadline);
        if (error == -ETIMEDOUT)
            return error;
        if (error)
            return connection_lost(client, error, err);
    }
}

static int send_request(struct store_client *client, enum protocol_request kind, const void *body,
                        size_t length, uint64_t deadline)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_u32(&w, (uint32_t)(9 + length));
    byte_writer_u32(&w, 0);
    byte_writer_u16(&w, CONNECTION_VERSION);
    byte_writer_u16(&w, PROTOCOL_REQUEST);
    byte_writer_u64(&w, ++client->request);
    byte_writer_u8(&w, (uint8_t)kind);
    byte_writer_bytes(&w, body, length);
    if (!w.failed)
        byte_writer_patch_u32(&w, 4, crc32c(0, w.data + 8, w.length - 8));
    int error = w.failed ? -ENOMEM : send_all(client, w.data, w.length, deadline);
    byte_writer_free(&w);
    return error;
}

static bool tries_elsewhere(enum store_status status)
{
    return status == STORE_NOT_LEADER || status == STORE_NO_LEADER || status == STORE_BUSY;
}

static void take_hint(struct store_client *client, struct byte_reader answer)
{
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    if (!byte_reader_string(&answer, client->hint, sizeof(client->hint)))
        client->hint[0] = 0;
}

static void pause_before_retry(uint64_t deadline)
{
    uint64_t now = clock_monotonic_ns();
    if (now < deadline)
        poll(NULL, 0,
             (int)((deadline - now < RETRY_NS ? deadline - now : RETRY_NS) / NSEC_PER_MSEC));
}

enum store_status store_client_request(struct store_client *client, enum protocol_request kind,
                                       const void *body, size_t length, struct byte_reader *answer,
                                       struct error *err)
{
    uint64_t deadline = clock_monotonic_ns() + client->timeout;
    *answer = (struct byte_reader){0};
    enum store_status status = STORE_NO_LEADER;
    bool refused = false; // an answer came, and it was a refusal
    bool reason_known = false;
    error_set(err, ETIMEDOUT, "store: no answer in time");
    while (clock_monotonic_ns() < deadline) {
        uint16_t type = 0;
        struct error why = {0};
        if (connect_any(client, deadline, &why)) {
            // The last try may just have been cut short: what was wrong before says more.
            if (err && (why.code != ETIMEDOUT || !reason_known))
                *err = why;
            reason_known = true;
            // Not the one that is looked for: it won't become it.
            if (client->pinned && client->tls_failure[0])
                return STORE_NO_LEADER;
            pause_before_retry(deadline);
            continue;
        }
        if (send_request(client, kind, body, length, deadline)) {
            // Part of it may have arrived, but no whole request: the frame's checksum says so.
            disconnect(client);
            pause_before_retry(deadline);
            continue;
        }
        uint64_t now = clock_monotonic_ns();
        int error =
            store_client_next(client, now < deadline ? deadline - now : 0, &type, answer, err);
        if (error) {
            // Nobody knows whether it was done.
            disconnect(client);
            if (error == -ETIMEDOUT)
                error_set(err, ETIMEDOUT, "store: no answer in time: %s",
                          store_status_text(STORE_UNKNOWN));
            return STORE_UNKNOWN;
        }
        status = answer->length > answer->offset ? (enum store_status)answer->data[answer->offset]
                                                 : STORE_UNKNOWN;
        if (!tries_elsewhere(status) || client->sticky)
            return status;
        refused = true;
        if (status == STORE_NOT_LEADER)
            take_hint(client, *answer);
        if (status != STORE_BUSY)
            disconnect(client);
        if (!client->hint[0])
            pause_before_retry(deadline);
    }
    if (refused)
        error_set(err, ETIMEDOUT, "store: %s", store_status_text(status));
    return refused ? status : STORE_NO_LEADER;
}

int store_client_txn(struct store_client *client, const struct store_txn *txn, bool stale,
                     struct store_result *result, struct error *err)
{
    struct byte_writer body;
    struct byte_reader answer;
    *result = (struct store_result){.status = store_txn_check(txn, false)};
    if (result->status != STORE_OK)
        return 0;
    byte_writer_init(&body);
    byte_writer_u8(&body, stale ? PROTOCOL_STALE : 0);
    store_txn_encode(&body, txn);
    if (body.failed) {
        byte_writer_free(&body);
        return error_set(err, ENOMEM, "store client: out of memory");
    }
    enum store_status status =
        store_client_request(client, REQUEST_TXN, body.data, body.length, &answer, err);
    byte_writer_free(&body);
    result->status = status;
    if (status == STORE_UNKNOWN || tries_elsewhere(status))
        return 0;
    if (store_result_decode(result, answer.data + answer.offset, answer.length - answer.offset))
        return error_set(err, EBADMSG, "store: the answer can't be understood");
    if (store_result_fits(result, txn))
        return 0;
    store_result_free(result);
    return error_set(err, EBADMSG, "store: the answer is to another question");
}
