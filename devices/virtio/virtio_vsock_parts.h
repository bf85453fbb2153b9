// virtio-vsock, inside: the device, its connections, and what each file has of them. The interface
// for others is virtio_vsock.h. Everything runs on the I/O thread.
#pragma once

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_vsock.h"

enum {
    VSOCK_RECEIVE = 0,
    VSOCK_TRANSMIT = 1,
    VSOCK_EVENT = 2,

    VSOCK_HEADER_SIZE = 44,
    VSOCK_TYPE_STREAM = 1,
    VSOCK_BUFFER = 64 * 1024, // what the guest may send ahead of the host's reader
    VSOCK_PACKET = 64 * 1024, // payload of one packet
    VSOCK_BUCKETS = 64,
    VSOCK_RESETS = 64, // answers that belong to no connection
    VSOCK_LINE = 32,   // "CONNECT 4294967295\n"
};

// 5.10.6: operations and the flags of SHUTDOWN.
enum vsock_operation {
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE = 2,
    VSOCK_RST = 3,
    VSOCK_SHUTDOWN = 4,
    VSOCK_RW = 5,
    VSOCK_CREDIT_UPDATE = 6,
    VSOCK_CREDIT_REQUEST = 7,
};
enum { VSOCK_NO_RECEIVE = 1, VSOCK_NO_SEND = 2 };

struct vsock_header {
    uint64_t source_cid, destination_cid;
    uint32_t source_port, destination_port, length;
    uint16_t type, operation;
    uint32_t flags, buffer, forwarded; // buf_alloc, fwd_cnt
};

//   host client:  GREETING -CONNECT line-> ASKED -guest's RESPONSE-> OPEN
//   guest client: CONNECTING -connector's answer-> OPEN
enum vsock_state { VSOCK_GREETING, VSOCK_ASKED, VSOCK_CONNECTING, VSOCK_OPEN };

struct vsock;

struct vsock_connection {
    struct vsock *vsock;
    struct vsock_connection *next;       // of its bucket
    struct vsock_connection *next_ready; // of vsock.ready
    bool is_ready;                       // is in that list
    enum vsock_state state;
    uint32_t host_port, guest_port;
    uint32_t id; // of the connector's request
    int fd;      // -1 while CONNECTING
    struct io_watch *watch;
    uint8_t tell; // bit N: an operation N is to be sent to the guest
    // The guest's side: what it may be sent, and what it won't do any more.
    uint32_t guest_buffer, guest_forwarded, sent;
    uint8_t guest_shutdown; // flags of its SHUTDOWN
    // Ours.
    uint32_t forwarded, forwarded_told;
    bool readable;     // there may be something to read
    bool host_ended;   // the host's end of file was seen
    bool asked_credit; // since credit ran out
    uint8_t line_length;
    char line[VSOCK_LINE];
    // What the host's reader didn't take yet: a ring, there while it is needed.
    uint8_t *kept;
    uint32_t kept_start, kept_length;
};

struct vsock {
    struct virtio_device virtio; // first
    uint32_t cid;
    int listen_fd, connector_fd;
    struct io_watch *listen_watch, *connector_watch;
    struct virtqueue_chain chain;
    struct vsock_connection *buckets[VSOCK_BUCKETS];
    _Atomic unsigned count; // of connections
    struct vsock_connection *ready, **ready_end;
    uint32_t next_port, next_id;
    struct {
        uint32_t host_port, guest_port;
    } resets[VSOCK_RESETS];
    unsigned reset_start, reset_count;
    bool reset_event_due; // the guest has to hear that its connections are gone
};

// virtio_vsock_host.c: the host's sockets.
int vsock_host_start(struct vsock *vsock);
void vsock_host_stop(struct vsock *vsock);
// NULL when there are too many, or no memory. `fd` is the connection's then.
struct vsock_connection *vsock_connection_new(struct vsock *vsock, enum vsock_state state, int fd,
                                              uint32_t host_port, uint32_t guest_port);
void vsock_connection_free(struct vsock_connection *connection);
struct vsock_connection *vsock_connection_find(struct vsock *vsock, uint32_t host_port,
                                               uint32_t guest_port);
// Watches the socket for what can be done with it now. -errno.
int vsock_connection_watch(struct vsock_connection *connection);
// Asks the connector. False when it can't be asked.
bool vsock_host_connect(struct vsock_connection *connection);
// The guest has accepted what a host client asked for.
void vsock_host_accepted(struct vsock_connection *connection);
// Hands bytes of the chain to the host's socket, and keeps what it doesn't take. False when the
// socket is closed.
bool vsock_host_send(struct vsock_connection *connection, const struct iovec *iov, unsigned count,
                     uint32_t length);
// Shuts down what the guest won't use any more, once everything was handed on.
void vsock_host_shutdown(struct vsock_connection *connection);

// virtio_vsock.c: the guest's queues.
void vsock_tell(struct vsock_connection *connection, enum vsock_operation operation);
// Puts it into the list of those that have something for the guest.
void vsock_make_ready(struct vsock_connection *connection);
// Sends to the guest what is ready, as long as it has buffers. True = again.
bool vsock_serve_receive(struct vsock *vsock);
uint32_t vsock_credit(const struct vsock_connection *connection);
