// Vsock: connections both ways, credit, half-close, bounds, hostile packets, state.
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_vsock_parts.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum {
    SLOT = 2,
    QUEUE_SIZE = 64,
    CID = 42,
    BUFFER = 4096,
    GUEST_PORT = 1234,
    GUEST_CREDIT = 65536
};

#define ALL UINT64_MAX

static struct fake_machine machine;
static struct device *vsock;
static struct virtio_driver driver;
static int connector; // this test's end
static struct sockaddr_un address;
static uint64_t buffers[QUEUE_SIZE]; // by head
static uint64_t packet_gpa;

// What the device sent to the guest.
struct packet {
    struct vsock_header h;
    uint8_t data[BUFFER];
};

static void make_device(void)
{
    int ends[2];
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/ferry-vsock-%d", (int)getpid());
    unlink(address.sun_path);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(listener, 16), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    connector = ends[0];
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "vsock0",
                                           .slot = SLOT};
    const struct virtio_vsock_config config = {
        .cid = CID, .listen_fd = listener, .connector_fd = ends[1]};
    ck_assert_int_eq(virtio_vsock_create(&vsock, &env, &config, NULL), 0);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    vsock->ops->reset(vsock);
}

static void destroy_device(void)
{
    vsock->ops->destroy(vsock);
    close(connector);
    unlink(address.sun_path);
}

static void set_up(void)
{
    fake_machine_init(&machine, 16 << 20);
    make_device();
    driver_open(&driver, &machine, SLOT);
    driver_start(&driver, ALL, 3, QUEUE_SIZE);
    packet_gpa = driver_alloc(&driver, BUFFER, 64);
}

static void tear_down(void)
{
    destroy_device();
    fake_machine_destroy(&machine);
}

static void offer_buffers(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct driver_segment s = {driver_alloc(&driver, BUFFER, 64), BUFFER};
        int head = driver_add(&driver, VSOCK_RECEIVE, &s, 0, 1, false);
        ck_assert_int_ge(head, 0);
        buffers[head] = s.gpa;
    }
    driver_kick(&driver, VSOCK_RECEIVE);
}

static struct packet take_used(int head, uint32_t length)
{
    static struct packet p;
    const uint8_t *b = driver_hva(&driver, buffers[head]);
    ck_assert_int_ge(head, 0);
    ck_assert_uint_ge(length, VSOCK_HEADER_SIZE);
    p.h = (struct vsock_header){.source_cid = bytes_get_u64(b),
                                .destination_cid = bytes_get_u64(b + 8),
                                .source_port = bytes_get_u32(b + 16),
                                .destination_port = bytes_get_u32(b + 20),
                                .length = bytes_get_u32(b + 24),
                                .type = bytes_get_u16(b + 28),
                                .operation = bytes_get_u16(b + 30),
                                .flags = bytes_get_u32(b + 32),
                                .buffer = bytes_get_u32(b + 36),
                                .forwarded = bytes_get_u32(b + 40)};
    ck_assert_uint_eq(length, VSOCK_HEADER_SIZE + p.h.length);
    ck_assert_uint_eq(p.h.source_cid, 2);
    ck_assert_uint_eq(p.h.destination_cid, CID);
    ck_assert_uint_eq(p.h.type, 1);
    memcpy(p.data, b + VSOCK_HEADER_SIZE, p.h.length);
    return p;
}

// The next packet for the guest; its buffer is offered again.
static struct packet receive(void)
{
    uint32_t length;
    int head = driver_wait_used(&driver, VSOCK_RECEIVE, &length);
    struct packet p = take_used(head, length);
    offer_buffers(1);
    return p;
}

static void expect_nothing(void)
{
    uint32_t length;
    for (unsigned i = 0; i < 4; i++)
        fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, VSOCK_RECEIVE, &length), -1);
}

static struct vsock_header header(uint32_t host_port, uint32_t guest_port, uint16_t operation)
{
    return (struct vsock_header){.source_cid = CID,
                                 .destination_cid = 2,
                                 .source_port = guest_port,
                                 .destination_port = host_port,
                                 .type = 1,
                                 .operation = operation,
                                 .buffer = GUEST_CREDIT};
}

// Makes the packet available: header and data in two descriptors, as Linux does.
static int post(const struct vsock_header *h, const void *data, uint32_t length)
{
    uint8_t *b = driver_hva(&driver, packet_gpa);
    bytes_put_u64(b, h->source_cid);
    bytes_put_u64(b + 8, h->destination_cid);
    bytes_put_u32(b + 16, h->source_port);
    bytes_put_u32(b + 20, h->destination_port);
    bytes_put_u32(b + 24, h->length);
    bytes_put_u16(b + 28, h->type);
    bytes_put_u16(b + 30, h->operation);
    bytes_put_u32(b + 32, h->flags);
    bytes_put_u32(b + 36, h->buffer);
    bytes_put_u32(b + 40, h->forwarded);
    struct driver_segment s[2] = {{packet_gpa, VSOCK_HEADER_SIZE},
                                  {length ? driver_alloc(&driver, length, 8) : 0, length}};
    if (length)
        memcpy(driver_hva(&driver, s[1].gpa), data, length);
    int head = driver_add(&driver, VSOCK_TRANSMIT, s, length ? 2 : 1, 0, false);
    driver_kick(&driver, VSOCK_TRANSMIT);
    return head;
}

static void send_packet(const struct vsock_header *h, const void *data, uint32_t length)
{
    ck_assert_int_ge(post(h, data, length), 0);
    ck_assert_int_ge(driver_wait_used(&driver, VSOCK_TRANSMIT, NULL), 0);
}

static void send_data(uint32_t host_port, const void *data, uint32_t length)
{
    struct vsock_header h = header(host_port, GUEST_PORT, VSOCK_RW);
    h.length = length;
    send_packet(&h, data, length);
}

static void send_operation(uint32_t host_port, uint16_t operation, uint32_t flags)
{
    struct vsock_header h = header(host_port, GUEST_PORT, operation);
    h.flags = flags;
    send_packet(&h, NULL, 0);
}

static int host_connect(const char *line)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(write(fd, line, strlen(line)), (ssize_t)strlen(line));
    return fd;
}

// Reads exactly so many bytes from a host's socket.
static void host_read(int fd, void *out, size_t length)
{
    for (size_t done = 0; done < length;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ck_assert_int_eq(poll(&p, 1, DRIVER_TIMEOUT_MS), 1);
        ssize_t n = read(fd, (uint8_t *)out + done, length - done);
        ck_assert_int_gt(n, 0);
        done += (size_t)n;
    }
}

static void host_expect_end(int fd)
{
    char byte;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, DRIVER_TIMEOUT_MS), 1);
    ck_assert_int_le(read(fd, &byte, 1), 0);
}

// A connection that the host began, open; *host_port is its end's.
static int open_from_host(uint32_t *host_port)
{
    char line[32], got[32] = "";
    int fd = host_connect("CONNECT 1234\n");
    struct packet p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_REQUEST);
    ck_assert_uint_eq(p.h.destination_port, GUEST_PORT);
    ck_assert_uint_eq(p.h.buffer, VSOCK_BUFFER);
    *host_port = p.h.source_port;
    send_operation(*host_port, VSOCK_RESPONSE, 0);
    int length = snprintf(line, sizeof(line), "OK %u\n", *host_port);
    host_read(fd, got, (size_t)length);
    ck_assert_str_eq(got, line);
    return fd;
}

// The connector's answer to the next request: one end of a socket pair, the other is returned.
static int answer_connector(uint32_t port, int error)
{
    struct virtio_vsock_connect request;
    int ends[2] = {-1, -1};
    ck_assert_int_eq(recv(connector, &request, sizeof(request), 0), (ssize_t)sizeof(request));
    ck_assert_uint_eq(request.port, port);
    struct virtio_vsock_connected answer = {.id = request.id, .error = error};
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {&answer, sizeof(answer)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&extra, 0, sizeof(extra));
    if (!error) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends),
                         0);
        m.msg_control = &extra;
        m.msg_controllen = sizeof(extra);
        extra.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&extra.header), &ends[1], sizeof(int));
    }
    ck_assert_int_eq(sendmsg(connector, &m, 0), (ssize_t)sizeof(answer));
    if (ends[1] >= 0)
        close(ends[1]);
    return ends[0];
}

START_TEST(host_connects)
{
    uint32_t port;
    char got[8] = "";
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device, 4), CID);
    offer_buffers(8);
    int fd = open_from_host(&port);
    send_data(port, "guest", 5);
    host_read(fd, got, 5);
    ck_assert_str_eq(got, "guest");
    ck_assert_int_eq(write(fd, "host", 4), 4);
    struct packet p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_RW);
    ck_assert_uint_eq(p.h.source_port, port);
    ck_assert_uint_eq(p.h.forwarded, 5);
    ck_assert_uint_eq(p.h.length, 4);
    ck_assert_mem_eq(p.data, "host", 4);
    ck_assert_uint_eq(virtio_vsock_connections(vsock), 1);
    send_operation(port, VSOCK_RST, 0);
    host_expect_end(fd);
    expect_nothing(); // a reset isn't answered
    ck_assert_uint_eq(virtio_vsock_connections(vsock), 0);
    close(fd);
}
END_TEST

START_TEST(guest_refuses)
{
    offer_buffers(4);
    int fd = host_connect("CONNECT 1234\n");
    struct packet p = receive();
    send_operation(p.h.source_port, VSOCK_RST, 0);
    host_expect_end(fd);
    close(fd);
}
END_TEST

static const char *const bad_lines[] = {"GET / HTTP/1.0\n",
                                        "CONNECT\n",
                                        "CONNECT x\n",
                                        "CONNECT -1\n",
                                        "CONNECT 1 2\n",
                                        "CONNECT 4294967296\n",
                                        "CONNECT 99999999999\n",
                                        "\n",
                                        "CONNECT 111111111111111111111111111111"};

START_TEST(bad_greetings_are_hung_up)
{
    offer_buffers(4);
    int fd = host_connect(bad_lines[_i]);
    host_expect_end(fd);
    expect_nothing();
    ck_assert_uint_eq(virtio_vsock_connections(vsock), 0);
    close(fd);
}
END_TEST

START_TEST(guest_connects)
{
    char got[8] = "";
    offer_buffers(8);
    struct vsock_header h = header(80, GUEST_PORT, VSOCK_REQUEST);
    send_packet(&h, NULL, 0);
    int fd = answer_connector(80, 0);
    struct packet p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_RESPONSE);
    ck_assert_uint_eq(p.h.source_port, 80);
    ck_assert_uint_eq(p.h.destination_port, GUEST_PORT);
    send_data(80, "hello", 5);
    host_read(fd, got, 5);
    ck_assert_str_eq(got, "hello");
    // Half-close: the guest has said all, the host has not.
    send_operation(80, VSOCK_SHUTDOWN, VSOCK_NO_SEND);
    host_expect_end(fd);
    ck_assert_int_eq(write(fd, "yes", 3), 3);
    p = receive();
    ck_assert_uint_eq(p.h.length, 3);
    close(fd);
    p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_SHUTDOWN);
    ck_assert_uint_eq(p.h.flags, VSOCK_NO_SEND);
    send_operation(80, VSOCK_SHUTDOWN, VSOCK_NO_SEND | VSOCK_NO_RECEIVE);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    ck_assert_uint_eq(virtio_vsock_connections(vsock), 0);
}
END_TEST

START_TEST(host_half_closes)
{
    uint32_t port;
    char got[8] = "";
    offer_buffers(8);
    int fd = open_from_host(&port);
    ck_assert_int_eq(write(fd, "all", 3), 3);
    ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RW); // before the end
    ck_assert_uint_eq(receive().h.operation, VSOCK_SHUTDOWN);
    send_data(port, "still", 5);
    host_read(fd, got, 5);
    ck_assert_str_eq(got, "still");
    close(fd);
    send_data(port, "gone?", 5); // nobody reads any more
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
}
END_TEST

START_TEST(nobody_listens)
{
    offer_buffers(4);
    struct vsock_header h = header(81, GUEST_PORT, VSOCK_REQUEST);
    send_packet(&h, NULL, 0);
    answer_connector(81, ECONNREFUSED);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    // The connector dies with a request open, and then there is none.
    send_packet(&h, NULL, 0);
    close(connector);
    connector = dup(0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    send_packet(&h, NULL, 0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
}
END_TEST

START_TEST(guest_credit_is_respected)
{
    uint32_t port;
    char text[300];
    memset(text, 'x', sizeof(text));
    offer_buffers(8);
    int fd = open_from_host(&port);
    struct vsock_header h = header(port, GUEST_PORT, VSOCK_CREDIT_UPDATE);
    h.buffer = 100;
    send_packet(&h, NULL, 0);
    ck_assert_int_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
    struct packet p = receive();
    ck_assert_uint_eq(p.h.length, 100);
    ck_assert_uint_eq(receive().h.operation, VSOCK_CREDIT_REQUEST);
    expect_nothing();
    h.forwarded = 60;
    send_packet(&h, NULL, 0);
    p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_RW);
    ck_assert_uint_eq(p.h.length, 60);
    ck_assert_uint_eq(receive().h.operation, VSOCK_CREDIT_REQUEST);
    h.buffer = 10; // it takes back what it offered
    send_packet(&h, NULL, 0);
    expect_nothing();
    h.buffer = 1000;
    h.forwarded = 160;
    send_packet(&h, NULL, 0);
    ck_assert_uint_eq(receive().h.length, 140);
    close(fd);
}
END_TEST

START_TEST(slow_host_slows_the_guest)
{
    static uint8_t data[16384], got[16384];
    uint32_t port, sent = 0, buffer = VSOCK_BUFFER, forwarded = 0;
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    offer_buffers(16);
    int fd = open_from_host(&port);
    // As much as the guest may send: until its credit is used up and no update comes.
    for (;;) {
        uint32_t length;
        if (sent - forwarded + sizeof(data) <= buffer) {
            send_data(port, data, sizeof(data));
            sent += sizeof(data);
        } else {
            fake_machine_settle(&machine);
            int head = driver_take_used(&driver, VSOCK_RECEIVE, &length);
            if (head < 0)
                break;
            struct packet p = take_used(head, length);
            ck_assert_uint_eq(p.h.operation, VSOCK_CREDIT_UPDATE);
            forwarded = p.h.forwarded;
            offer_buffers(1);
        }
        ck_assert_uint_lt(sent, 8u << 20); // it's bounded
    }
    ck_assert_uint_ge(sent, VSOCK_BUFFER);
    // A pause doesn't lose what waits.
    vsock->ops->quiesce(vsock);
    vsock->ops->resume(vsock);
    for (uint32_t done = 0; done < sent; done += sizeof(got)) {
        host_read(fd, got, sizeof(got));
        ck_assert_mem_eq(got, data, sizeof(got));
    }
    ck_assert_uint_eq(receive().h.operation, VSOCK_CREDIT_UPDATE);
    // More than it was allowed.
    for (unsigned i = 0; i < 64; i++)
        send_data(port, data, sizeof(data));
    struct packet p;
    do
        p = receive();
    while (p.h.operation == VSOCK_CREDIT_UPDATE);
    ck_assert_uint_eq(p.h.operation, VSOCK_RST);
    close(fd);
}
END_TEST

START_TEST(hostile_packets)
{
    uint32_t port;
    char got[8] = "";
    offer_buffers(16);
    int fd = open_from_host(&port);
    struct vsock_header h = header(port, GUEST_PORT, VSOCK_RW);
    h.source_cid = 77; // somebody else
    send_packet(&h, NULL, 0);
    h = header(port, GUEST_PORT, VSOCK_RW);
    h.destination_cid = 1;
    send_packet(&h, NULL, 0);
    struct driver_segment tiny = {packet_gpa, VSOCK_HEADER_SIZE - 1};
    driver_request(&driver, VSOCK_TRANSMIT, &tiny, 1, 0);
    expect_nothing();
    static const uint16_t strays[] = {
        VSOCK_RESPONSE, VSOCK_SHUTDOWN, VSOCK_RW, VSOCK_CREDIT_UPDATE, VSOCK_CREDIT_REQUEST, 0, 8,
        0xffff};
    for (unsigned i = 0; i < sizeof(strays) / sizeof(strays[0]); i++) {
        h = header(5555, 6666, strays[i]); // no such connection
        send_packet(&h, NULL, 0);
        struct packet p = receive();
        ck_assert_uint_eq(p.h.operation, VSOCK_RST);
        ck_assert_uint_eq(p.h.source_port, 5555);
        ck_assert_uint_eq(p.h.destination_port, 6666);
    }
    h = header(5555, 6666, VSOCK_REQUEST);
    h.type = 2; // not a stream
    send_packet(&h, NULL, 0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    send_data(port, "fine", 4); // nobody else was hurt
    host_read(fd, got, 4);
    h = header(port, GUEST_PORT, VSOCK_RW);
    h.length = 1000; // more than comes
    send_packet(&h, "x", 1);
    struct packet p = receive();
    ck_assert_uint_eq(p.h.operation, VSOCK_RST);
    ck_assert_uint_eq(p.h.source_port, port);
    host_expect_end(fd);
    close(fd);
    // Port 0, under which host clients wait that haven't said which one they want.
    fd = host_connect("CONN");
    fake_machine_settle(&machine);
    h = header((UINT32_C(1) << 30) + 2, 0, VSOCK_RST);
    send_packet(&h, NULL, 0);
    ck_assert_int_eq(write(fd, "ECT 1234\n", 9), 9);
    ck_assert_uint_eq(receive().h.operation, VSOCK_REQUEST);
    close(fd);
    ck_assert(!(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET));
}
END_TEST

START_TEST(answers_are_bounded)
{
    unsigned posted = 0, answered = 0;
    uint32_t length;
    // Nothing is offered to receive into: at some time nothing more is taken.
    for (unsigned round = 0; round < 4; round++) {
        struct vsock_header h = header(5555, 6666, VSOCK_RW);
        while (post(&h, NULL, 0) >= 0)
            posted++;
        fake_machine_settle(&machine);
        while (driver_take_used(&driver, VSOCK_TRANSMIT, NULL) >= 0)
            ;
    }
    ck_assert_uint_lt(posted, VSOCK_RESETS + 2 * QUEUE_SIZE);
    while (answered < posted) {
        offer_buffers(1);
        int head = driver_wait_used(&driver, VSOCK_RECEIVE, &length);
        ck_assert_uint_eq(take_used(head, length).h.operation, VSOCK_RST);
        answered++;
    }
    offer_buffers(1);
    expect_nothing();
}
END_TEST

START_TEST(connections_are_bounded)
{
    offer_buffers(16);
    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++) {
        struct vsock_header h = header(80, 10000 + i, VSOCK_REQUEST);
        send_packet(&h, NULL, 0);
        close(answer_connector(80, 0));
        while (receive().h.operation != VSOCK_SHUTDOWN)
            ;
    }
    ck_assert_uint_eq(virtio_vsock_connections(vsock), VIRTIO_VSOCK_CONNECTIONS);
    struct vsock_header h = header(80, 9999, VSOCK_REQUEST);
    send_packet(&h, NULL, 0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    int fd = host_connect("CONNECT 1234\n"); // waits
    expect_nothing();
    h = header(80, 10000, VSOCK_RST);
    send_packet(&h, NULL, 0);
    ck_assert_uint_eq(receive().h.operation, VSOCK_REQUEST);
    close(fd);
}
END_TEST

START_TEST(after_a_move_connections_are_gone)
{
    uint32_t port, length;
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    offer_buffers(8);
    int fd = open_from_host(&port);
    byte_writer_init(&w);
    vsock->ops->quiesce(vsock);
    vsock->ops->save(vsock, &w);
    destroy_device();
    host_expect_end(fd);
    make_device();
    byte_reader_init(&r, w.data, w.length);
    ck_assert_msg(vsock->ops->load(vsock, &r, &err) == 0, "%s", err.message);
    vsock->ops->resume(vsock);
    // The guest hears of it when it has room for that.
    struct driver_segment event = {driver_alloc(&driver, 8, 8), 8};
    bytes_put_u32(driver_hva(&driver, event.gpa), 77);
    ck_assert_int_ge(driver_add(&driver, VSOCK_EVENT, &event, 0, 1, false), 0);
    driver_kick(&driver, VSOCK_EVENT);
    ck_assert_int_ge(driver_wait_used(&driver, VSOCK_EVENT, &length), 0);
    ck_assert_uint_eq(length, 4);
    ck_assert_uint_eq(bytes_get_u32(driver_hva(&driver, event.gpa)), 0);
    send_data(port, "old", 3);
    ck_assert_uint_eq(receive().h.operation, VSOCK_RST);
    close(fd);
    fd = open_from_host(&port); // new ones work
    close(fd);
    byte_writer_free(&w);
}
END_TEST

START_TEST(reset_closes_everything)
{
    uint32_t port;
    offer_buffers(8);
    int fd = open_from_host(&port);
    driver_reset(&driver);
    host_expect_end(fd);
    ck_assert_uint_eq(virtio_vsock_connections(vsock), 0);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("virtio-vsock");
    TCase *t = tcase_create("vsock");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, host_connects);
    tcase_add_test(t, guest_refuses);
    tcase_add_loop_test(t, bad_greetings_are_hung_up, 0,
                        (int)(sizeof(bad_lines) / sizeof(bad_lines[0])));
    tcase_add_test(t, guest_connects);
    tcase_add_test(t, host_half_closes);
    tcase_add_test(t, nobody_listens);
    tcase_add_test(t, guest_credit_is_respected);
    tcase_add_test(t, slow_host_slows_the_guest);
    tcase_add_test(t, hostile_packets);
    tcase_add_test(t, answers_are_bounded);
    tcase_add_test(t, connections_are_bounded);
    tcase_add_test(t, after_a_move_connections_are_gone);
    tcase_add_test(t, reset_closes_everything);
    suite_add_tcase(s, t);
    return run_suite(s);
}
