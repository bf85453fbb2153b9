// Framed connections of the cluster, between members and with clients: TCP or Unix sockets on a
// libuv loop, with or without TLS.
//
// A frame is: u32 length of the payload, u32 CRC-32C of all that follows, u16 protocol version, u16
// type, payload (docs/store.md). A bad frame ends the connection: nothing after it can be trusted.
//
// Everything sent in one round of the loop goes out together, just before the loop waits. Nothing
// is buffered without bound: senders look at connection_queued(), and connection_pause() stops
// reading from a peer that doesn't read either.
//
// Ownership: a connection belongs to its set until it is closed, which also happens from the other
// side; `closed` is the last call its owner gets for it.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"

enum { CONNECTION_VERSION = 1, CONNECTION_FRAME_MAX = 16 << 20, CONNECTION_HEADER = 12 };

struct connection;
struct tls_credentials;
struct tls_subject;

struct connection_callbacks {
    // Connected, with TLS done where it is used. Frames may be sent before. What was accepted
    // without TLS is ready from the beginning, and nothing is called.
    void (*ready)(void *owner, struct connection *connection);
    // False: the frame is not acceptable, and the connection is closed.
    bool (*frame)(void *owner, struct connection *connection, uint16_t type, const uint8_t *payload,
                  size_t length);
    void (*closed)(void *owner, struct connection *connection, const char *reason);
    // Instead of `frame`, where what comes is no frames: all that has come. NULL with frames.
    void (*bytes)(void *owner, struct connection *connection, const uint8_t *bytes, size_t length);
};

struct connection_set {
    uv_loop_t *loop;
    struct connection *all, *dirty;
    uv_prepare_t flush;
    // What the certificate of whoever is dialled must be for; NULL: any of the CA will do.
    const char *peer_name;
    // Called before what was sent goes out: the last chance to send more. May be NULL.
    void (*before_flush)(void *context);
    void *context;
};

int connection_set_init(struct connection_set *set, uv_loop_t *loop);
// Closes all of them, without callbacks; the loop must run on until their handles are closed.
// `closed` (may be NULL) is called for set->flush when the set itself isn't needed any more.
void connection_set_close(struct connection_set *set, uv_close_cb closed);

// Takes what the listening stream has. `tls` may be NULL.
struct connection *connection_accept(struct connection_set *set, uv_stream_t *listener,
                                     const struct tls_credentials *tls,
                                     const struct connection_callbacks *callbacks, void *owner);
// Begins to connect to "HOST:PORT" or "unix:PATH". NULL: no memory, or no such form.
struct connection *connection_dial(struct connection_set *set, const char *address,
                                   const struct tls_credentials *tls,
                                   const struct connection_callbacks *callbacks, void *owner);
// Right after connection_accept(): who connects needs no certificate. Whether it has one is to be
// asked before anything is done for it.
void connection_admit_strangers(struct connection *connection);
bool connection_is_stranger(const struct connection *connection);
// Right after connection_accept(): certificates for clients alone are let in too.
void connection_admit_clients(struct connection *connection);
// Right after connection_accept() or connection_dial(): the protocols inside TLS (base/tls.h).
void connection_offer(struct connection *connection, const char *const *names, unsigned count);
bool connection_speaks(const struct connection *connection, const char *name);
// What the other side's certificate says; false: it has shown none, or there is no TLS.
bool connection_subject(const struct connection *connection, struct tls_subject *subject);
bool connection_is_ready(const struct connection *connection);
// Whether it came over TCP.
bool connection_is_remote(const struct connection *connection);
// The other side's address, for logs; "?" where it has none.
enum { CONNECTION_ADDRESS_TEXT = 64 };
const char *connection_peer_address(const struct connection *connection);
void connection_set_owner(struct connection *connection, void *owner,
                          const struct connection_callbacks *callbacks);

// Copies the frame. Failures (memory) close the connection later; so do not look at it.
void connection_send(struct connection *connection, uint16_t type, const void *payload,
                     size_t length);
// The same in two parts.
void connection_send2(struct connection *connection, uint16_t type, const void *head,
                      size_t head_length, const void *rest, size_t rest_length);
// The same of no frame, with callbacks that have `bytes`.
void connection_send_bytes(struct connection *connection, const void *bytes, size_t length);
// Sends what was sent, as far as that goes at once, and closes: for last words. `closed` isn't
// called.
void connection_finish(struct connection *connection);
// Tells the other side that nothing more comes; what it says is still received. To be called when
// nothing is queued. Closing right away instead would take back what it hasn't read yet, if it is
// still sending.
void connection_shut(struct connection *connection);
// Bytes that the other side has not taken yet.
size_t connection_queued(const struct connection *connection);
void connection_pause(struct connection *connection, bool paused);
// `closed` is not called.
void connection_close(struct connection *connection);

// Listens on "HOST:PORT" or "unix:PATH" (mode 0600). The handle is freed by connection_unlisten().
int connection_listen(uv_loop_t *loop, const char *address, uv_connection_cb callback, void *data,
                      uv_stream_t **listener, struct error *err);
void connection_unlisten(uv_stream_t *listener);

// Splits "HOST:PORT", "[V6]:PORT"; false for anything else.
bool connection_address_split(const char *address, char host[256], char port[16]);

// One frame at the start of the bytes: its length with header, 0 if it isn't complete, -EBADMSG or
// -EPROTONOSUPPORT.
long connection_frame_check(const uint8_t *bytes, size_t length, uint16_t *type);
