// TLS of connections: GnuTLS sessions over memory, so that the loop alone touches sockets.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/tls.h"
#include "cluster/member/connection_internal.h"

struct tls_session {
    struct connection *connection;
    gnutls_session_t session;
    struct byte_writer cipher; // received, not yet decrypted
    size_t taken;
};

static ssize_t session_push(gnutls_transport_ptr_t opaque, const void *bytes, size_t length)
{
    struct tls_session *session = opaque;
    byte_writer_bytes(&session->connection->wire, bytes, length);
    if (session->connection->wire.failed) {
        gnutls_transport_set_errno(session->session, ENOMEM);
        return -1;
    }
    return (ssize_t)length;
}

static ssize_t session_pull(gnutls_transport_ptr_t opaque, void *bytes, size_t length)
{
    struct tls_session *session = opaque;
    size_t left = session->cipher.length - session->taken;
    if (left == 0) {
        gnutls_transport_set_errno(session->session, EAGAIN);
        return -1;
    }
    if (length > left)
        length = left;
    memcpy(bytes, session->cipher.data + session->taken, length);
    session->taken += length;
    if (session->taken == session->cipher.length) {
        byte_writer_reset(&session->cipher);
        session->taken = 0;
    }
    return (ssize_t)length;
}

static int session_pull_timeout(gnutls_transport_ptr_t opaque, unsigned int milliseconds)
{
    struct tls_session *session = opaque;
    return session->cipher.length > session->taken;
}

int tls_session_create(struct connection *connection, const struct tls_credentials *tls,
                       bool server)
{
    struct tls_session *session = calloc(1, sizeof(*session));
    if (!session)
        return -ENOMEM;
    session->connection = connection;
    byte_writer_init(&session->cipher);
    // Members are known by their ids and the CA. Names matter only where one is asked for, of
    // whoever is dialled: addresses change, and what accepts knows none.
    int error = tls_session_open(&session->session, tls, server, GNUTLS_NONBLOCK,
                                 server ? NULL : connection->set->peer_name);
    if (error) {
        free(session);
        return error;
    }
    gnutls_transport_set_ptr(session->session, session);
    gnutls_transport_set_push_function(session->session, session_push);
    gnutls_transport_set_pull_function(session->session, session_pull);
    gnutls_transport_set_pull_timeout_function(session->session, session_pull_timeout);
    connection->tls = session;
    return 0;
}

void connection_admit_strangers(struct connection *connection)
{
    if (connection->tls)
        tls_session_admit_strangers(connection->tls->session);
}

void connection_admit_clients(struct connection *connection)
{
    if (connection->tls)
        tls_session_admit_clients(connection->tls->session);
}

void connection_offer(struct connection *connection, const char *const *names, unsigned count)
{
    // Without memory for it the other side speaks no such protocol, which is seen and said.
    if (connection->tls)
        tls_session_offer(connection->tls->session, names, count);
}

bool connection_speaks(const struct connection *connection, const char *name)
{
    return connection->tls && tls_session_speaks(connection->tls->session, name);
}

bool connection_subject(const struct connection *connection, struct tls_subject *subject)
{
    if (connection->tls)
        return tls_session_subject(connection->tls->session, subject);
    *subject = (struct tls_subject){.client = true};
    return false;
}

bool connection_is_stranger(const struct connection *connection)
{
    return connection->tls && tls_session_is_stranger(connection->tls->session);
}

void tls_session_free(struct tls_session *session)
{
    if (!session)
        return;
    gnutls_deinit(session->session);
    byte_writer_free(&session->cipher);
    free(session);
}

int tls_session_feed(struct tls_session *session, const void *bytes, size_t length)
{
    byte_writer_bytes(&session->cipher, bytes, length);
    return session->cipher.failed ? -ENOMEM : 0;
}

static int session_failed(struct tls_session *session, int code)
{
    struct connection *connection = session->connection;
    char text[TLS_FAILURE_SIZE];
    tls_describe_failure(session->session, code, text);
    snprintf(connection->tls_reason, sizeof(connection->tls_reason), "TLS: %s", text);
    connection->broken_reason = connection->tls_reason;
    return -EPROTO;
}

int tls_session_handshake(struct tls_session *session)
{
    int code;
    do
        code = gnutls_handshake(session->session);
    while (code == GNUTLS_E_WARNING_ALERT_RECEIVED || code == GNUTLS_E_INTERRUPTED);
    if (code == GNUTLS_E_SUCCESS)
        return 1;
    if (code == GNUTLS_E_AGAIN)
        return 0;
    // The other side shall know why it was turned away; connection.c sends it.
    gnutls_alert_send_appropriate(session->session, code);
    return session_failed(session, code);
}

int tls_session_send(struct tls_session *session)
{
    struct byte_writer *out = &session->connection->out;
    size_t done = 0;
    while (done < out->length) {
        ssize_t sent = gnutls_record_send(session->session, out->data + done, out->length - done);
        if (sent < 0)
            return -EPROTO;
        done += (size_t)sent;
    }
    byte_writer_reset(out);
    return 0;
}

int tls_session_receive(struct tls_session *session)
{
    uint8_t plain[16384];
    for (;;) {
        ssize_t got = gnutls_record_recv(session->session, plain, sizeof(plain));
        if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED)
            return 0;
        if (got == 0)
            return -ECONNRESET;
        if (got < 0) {
            return session_failed(session, (int)got);
        }
        byte_writer_bytes(&session->connection->in, plain, (size_t)got);
        if (session->connection->in.failed)
            return -ENOMEM;
    }
}
