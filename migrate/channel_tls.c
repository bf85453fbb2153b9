#include "migrate/channel_tls.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORD_SIZE = 16384, // of plain text at most (RFC 8446, 5.1)
    // Records are gathered to this much for one system call, and read with as much at once.
    WIRE_SIZE = 128 * 1024,
};

#define OTHER_SIDE " (does the other side use tls:// too?)"

struct channel_tls {
    gnutls_session_t session;
    int fd;
    bool shaking; // both directions are used by one thread: what was sent must go out before
                  // an answer is waited for
    uint64_t deadline_ns;          // of receiving
    int send_error, receive_error; // of the socket, as -errno: GnuTLS tells only that there was one

    uint8_t *out;
    size_t out_length;
    uint8_t *in;
    size_t in_length, in_taken;
    uint8_t *record; // small pieces become one record
};

// ---- below the session ----

static int flush(struct channel_tls *t)
{
    struct iovec iov = {t->out, t->out_length};
    int rc = t->out_length ? channel_socket_send(t->fd, &iov, 1) : 0;
    t->out_length = 0;
    if (rc < 0)
        t->send_error = rc;
    return rc;
}

static ssize_t push(gnutls_transport_ptr_t opaque, const void *bytes, size_t length)
{
    struct channel_tls *t = opaque;
    if (t->out_length + length > WIRE_SIZE && flush(t) < 0)
        goto failed;
    if (length <= WIRE_SIZE) {
        memcpy(t->out + t->out_length, bytes, length);
        t->out_length += length;
        return (ssize_t)length;
    }
    struct iovec iov = {(void *)bytes, length};
    t->send_error = channel_socket_send(t->fd, &iov, 1);
    if (t->send_error == 0)
        return (ssize_t)length;
failed:
    gnutls_transport_set_errno(t->session, EPIPE);
    return -1;
}

static ssize_t pull(gnutls_transport_ptr_t opaque, void *bytes, size_t length)
{
    struct channel_tls *t = opaque;
    if (t->shaking && flush(t) < 0) {
        gnutls_transport_set_errno(t->session, EPIPE);
        return -1;
    }
    if (t->in_taken == t->in_length) {
        ssize_t n = channel_socket_receive(t->fd, t->in, WIRE_SIZE, 0, t->deadline_ns);
        if (n < 0) {
            t->receive_error = (int)n;
            gnutls_transport_set_errno(t->session, EIO);
            return -1;
        }
        t->in_length = (size_t)n;
        t->in_taken = 0;
    }
    size_t left = t->in_length - t->in_taken;
    if (length > left)
        length = left;
    memcpy(bytes, t->in + t->in_taken, length);
    t->in_taken += length;
    return (ssize_t)length; // 0: the end of the stream
}

// The socket's limits of time are pull()'s.
static int pull_timeout(gnutls_transport_ptr_t opaque, unsigned milliseconds)
{
    (void)opaque;
    (void)milliseconds;
    return 1;
}

// ---- the session ----

static int shake_hands(struct channel_tls *t, struct error *err)
{
    int code;
    t->shaking = true;
    do
        code = gnutls_handshake(t->session);
    while (code == GNUTLS_E_WARNING_ALERT_RECEIVED || code == GNUTLS_E_INTERRUPTED);
    if (code == GNUTLS_E_SUCCESS && flush(t) == 0) {
        t->shaking = false;
        return 0;
    }
    int failed = t->send_error < 0 ? t->send_error : t->receive_error;
    if (failed < 0)
        return error_set(err, -failed, "TLS: %s%s", strerror(-failed),
                         failed == -ECONNRESET || failed == -EPIPE ? OTHER_SIDE : "");
    // The other side shall know why it was turned away, and not only that.
    gnutls_alert_send_appropriate(t->session, code);
    flush(t);
    if (code == GNUTLS_E_UNEXPECTED_PACKET || code == GNUTLS_E_UNEXPECTED_PACKET_LENGTH ||
        code == GNUTLS_E_PREMATURE_TERMINATION)
        return error_set(err, EPROTO, "TLS: %s" OTHER_SIDE, gnutls_strerror(code));
    char text[TLS_FAILURE_SIZE];
    tls_describe_failure(t->session, code, text);
    return error_set(err, code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR ? EACCES : EPROTO,
                     "TLS: %s", text);
}

int channel_tls_open(struct channel_tls **out, int fd, const struct tls_credentials *credentials,
                     bool server, const char *peer_name, uint64_t deadline_ns, struct error *err)
{
    struct channel_tls *t = calloc(1, sizeof(*t));
    if (t) {
        t->out = malloc(WIRE_SIZE);
        t->in = malloc(WIRE_SIZE);
        t->record = malloc(RECORD_SIZE);
    }
    // Without tickets nothing comes on a session by itself: a socket that can be read has a frame.
    if (!t || !t->out || !t->in || !t->record ||
        tls_session_open(&t->session, credentials, server, GNUTLS_NO_TICKETS, peer_name) < 0) {
        channel_tls_close(t);
        return error_set_errno(err, ENOMEM, "TLS");
    }
    t->fd = fd;
    t->deadline_ns = deadline_ns;
    gnutls_transport_set_ptr(t->session, t);
    gnutls_transport_set_push_function(t->session, push);
    gnutls_transport_set_pull_function(t->session, pull);
    gnutls_transport_set_pull_timeout_function(t->session, pull_timeout);
    int rc = shake_hands(t, err);
    if (rc < 0)
        channel_tls_close(t);
    else
        *out = t;
    return rc;
}

bool channel_tls_subject(const struct channel_tls *t, struct tls_subject *subject)
{
    return tls_session_subject(t->session, subject);
}

void channel_tls_close(struct channel_tls *t)
{
    if (!t)
        return;
    if (t->session)
        gnutls_deinit(t->session);
    free(t->out);
    free(t->in);
    free(t->record);
    free(t);
}

void channel_tls_set_deadline(struct channel_tls *t, uint64_t deadline_ns)
{
    t->deadline_ns = deadline_ns;
}

bool channel_tls_has_input(const struct channel_tls *t)
{
    return t->in_taken < t->in_length || gnutls_record_check_pending(t->session) > 0;
}

static int send_record(struct channel_tls *t, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = gnutls_record_send(t->session, bytes, length);
        if (n == GNUTLS_E_INTERRUPTED)
            continue;
        if (n < 0)
            return t->send_error < 0 ? t->send_error : -EPROTO;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

int channel_tls_send(struct channel_tls *t, const struct iovec *iov, unsigned count)
{
    size_t gathered = 0;
    int rc = 0;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        const uint8_t *bytes = iov[i].iov_base;
        size_t left = iov[i].iov_len;
        if (gathered || left < RECORD_SIZE) {
            size_t n = left < RECORD_SIZE - gathered ? left : RECORD_SIZE - gathered;
            if (n)
                memcpy(t->record + gathered, bytes, n);
            gathered += n;
            bytes += n;
            left -= n;
        }
        if (gathered == RECORD_SIZE || left > 0 || i == count - 1) {
            rc = send_record(t, t->record, gathered);
            gathered = 0;
        }
        if (rc == 0)
            rc = send_record(t, bytes, left);
    }
    return rc == 0 ? flush(t) : rc;
}

ssize_t channel_tls_receive(struct channel_tls *t, void *out, size_t length)
{
    ssize_t n;
    do
        n = gnutls_record_recv(t->session, out, length);
    while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_AGAIN);
    if (n >= 0)
        return n;
    if (t->receive_error < 0)
        return t->receive_error;
    if (n == GNUTLS_E_FATAL_ALERT_RECEIVED)
        return -EKEYREJECTED; // TLS 1.3 tells a client of it only after its own handshake
    return n == GNUTLS_E_PREMATURE_TERMINATION ? 0 : -EPROTO;
}
