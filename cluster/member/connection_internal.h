#pragma once

#include "base/bytes.h"
#include "base/tls.h"
#include "cluster/member/connection.h"

struct tls_session;

struct connection {
    struct connection_set *set;
    struct connection *next, **previous; // of all
    struct connection *next_dirty;
    bool is_dirty;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    const struct connection_callbacks *callbacks;
    void *owner;
    uv_connect_t connecting;
    uv_getaddrinfo_t resolving;
    uv_write_t writing;
    uv_shutdown_t shutting;
    bool connected, ready, closing, in_flight, reading, paused, resolving_now, in_callback;
    bool broken; // something failed that ends it at the next opportunity
    const char *broken_reason;
    char address[CONNECTION_ADDRESS_TEXT]; // the other side's
    char tls_reason[TLS_FAILURE_SIZE + 8];
    struct tls_session *tls;
    struct byte_writer out;     // frames not yet handed to TLS or the socket
    struct byte_writer wire;    // what goes to the socket next
    struct byte_writer sending; // what the socket has now
    struct byte_writer in;      // frames being received
    uint8_t buffer[65536];
};

// tls.c. Sessions read cipher text from what was fed, and write it to connection->wire.
int tls_session_create(struct connection *connection, const struct tls_credentials *tls,
                       bool server);
void tls_session_free(struct tls_session *session);
int tls_session_feed(struct tls_session *session, const void *bytes, size_t length);
// Goes on with the handshake: 1 done, 0 needs more from the other side, else an error.
int tls_session_handshake(struct tls_session *session);
// Encrypts all of connection->out.
int tls_session_send(struct tls_session *session);
// Decrypts into connection->in.
int tls_session_receive(struct tls_session *session);
