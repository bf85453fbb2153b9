// Frames over a stream: format, pieces, a peer that breaks it, a new connection, a slow reader.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "devices/net/net_stream.h"
#include "tests/unit/run_suite.h"

static struct net_backend *backend;
static int control, peer = -1;
static uint8_t got[NET_HEADER_SIZE + NET_FRAME_LIMIT];

static ssize_t receive(void)
{
    // In three parts, the first smaller than the header.
    struct iovec iov[3] = {{got, 5}, {got + 5, 20}, {got + 25, sizeof(got) - 25}};
    return backend->ops->receive(backend, 0, iov, 3);
}

// Gives the backend a new connection; `peer` is this test's end.
static void connect_it(void)
{
    int ends[2];
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {"c", 1};
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof(extra)};
    if (peer >= 0)
        close(peer);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    memset(&extra, 0, sizeof(extra));
    extra.header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&extra.header), &ends[1], sizeof(int));
    ck_assert_int_eq(sendmsg(control, &m, 0), 1);
    close(ends[1]);
    peer = ends[0];
    ck_assert_int_eq(receive(), -EAGAIN); // takes it
}

static void set_up(void)
{
    int ends[2];
    log_open(-1, LOG_LEVEL_ERROR);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    control = ends[0];
    ck_assert_int_eq(net_stream_create(&backend, ends[1], "net0", NULL), 0);
    ck_assert_uint_eq(backend->queue_pairs, 1);
    ck_assert_uint_eq(backend->send_offloads | backend->receive_offloads, 0);
}

static void tear_down(void)
{
    backend->ops->destroy(backend);
    close(control);
    if (peer >= 0)
        close(peer);
    peer = -1;
}

static ssize_t send_frame(const void *bytes, size_t length)
{
    uint8_t header[NET_HEADER_SIZE] = {0};
    struct iovec iov[2] = {{header, sizeof(header)}, {(void *)bytes, length}};
    return backend->ops->send(backend, 0, iov, 2);
}

START_TEST(other_descriptors_are_refused)
{
    struct net_backend *none;
    struct error err = {0};
    int ends[2];
    ck_assert_int_eq(net_stream_create(&none, STDIN_FILENO, "net1", &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "network 'net1'"));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(net_stream_create(&none, ends[0], "net1", &err), -EINVAL);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

// Said once, and not again each time that the network has nothing.
START_TEST(lost_helper_is_said_once)
{
    int lines[2], count = 0;
    char said[2000];
    ck_assert_int_eq(pipe2(lines, O_CLOEXEC), 0);
    log_open(lines[1], LOG_LEVEL_WARNING);
    shutdown(control, SHUT_RDWR);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(receive(), -EAGAIN);
    log_open(-1, LOG_LEVEL_ERROR);
    close(lines[1]);
    ssize_t n = read(lines[0], said, sizeof(said));
    for (ssize_t i = 0; i < n; i++)
        count += said[i] == '\n';
    ck_assert_int_eq(count, 1);
    close(lines[0]);
}
END_TEST

START_TEST(without_a_connection_nothing_goes)
{
    ck_assert_int_eq(send_frame("0123456789abcdef", 16), -EAGAIN);
    ck_assert_int_eq(receive(), -EAGAIN);
    ck_assert_int_eq(send(control, "there is none", 13, 0), 13); // words are for the log
    ck_assert_int_eq(receive(), -EAGAIN);
    ck_assert_int_eq(backend->ops->set_receive_offloads(backend, 0), 0);
    ck_assert_int_lt(backend->ops->set_receive_offloads(backend, NET_OFFLOAD_TSO4), 0);
}
END_TEST

START_TEST(frames_go_both_ways)
{
    static const uint8_t wire[] = "\0\0\0\x10"
                                  "0123456789abcdef"
                                  "\0\0\0\x0f"
                                  "0123456789abcde";
    uint8_t read_back[64];
    connect_it();
    ck_assert_int_gt(send_frame("0123456789abcdef", 16), 0);
    ck_assert_int_eq(read(peer, read_back, sizeof(read_back)), 20);
    ck_assert_mem_eq(read_back, wire, 20);
    // Byte by byte: a frame is there when its last one is.
    for (size_t i = 0; i < sizeof(wire) - 1; i++) {
        memset(got, 0xee, 64);
        ck_assert_int_eq(write(peer, wire + i, 1), 1);
        ssize_t n = receive();
        if (i != 19 && i != sizeof(wire) - 2) {
            ck_assert_int_eq(n, -EAGAIN);
            continue;
        }
        size_t length = i == 19 ? 16 : 15;
        ck_assert_int_eq(n, (ssize_t)(NET_HEADER_SIZE + length));
        for (unsigned j = 0; j < NET_HEADER_SIZE; j++)
            ck_assert_uint_eq(got[j], 0);
        ck_assert_mem_eq(got + NET_HEADER_SIZE, "0123456789abcdef", length);
    }
    // Both at once come one by one, and the descriptor to watch says that there is something.
    struct pollfd p = {.fd = backend->ops->receive_fd(backend, 0), .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    ck_assert_int_eq(write(peer, wire, sizeof(wire) - 1), sizeof(wire) - 1);
    ck_assert_int_eq(poll(&p, 1, 1000), 1);
    ck_assert_int_eq(receive(), NET_HEADER_SIZE + 16);
    ck_assert_int_eq(receive(), NET_HEADER_SIZE + 15);
    ck_assert_int_eq(receive(), -EAGAIN);
}
END_TEST

static const uint8_t bad_lengths[][4] = {
    {0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 1, 0, 0x0f}, {'G', 'E', 'T', ' '}};

START_TEST(peers_that_break_the_format_are_hung_up)
{
    char byte;
    connect_it();
    ck_assert_int_eq(write(peer, bad_lengths[_i], 4), 4);
    ck_assert_int_eq(receive(), -EAGAIN);
    ck_assert_int_eq(read(peer, &byte, 1), 0);
    ck_assert_int_eq(send_frame("0123456789abcdef", 16), -EAGAIN);
    connect_it(); // the next one is served
    ck_assert_int_gt(send_frame("0123456789abcdef", 16), 0);
}
END_TEST

START_TEST(half_a_frame_of_an_old_connection_is_forgotten)
{
    connect_it();
    ck_assert_int_eq(write(peer,
                           "\0\0\0\x10"
                           "0123",
                           8),
                     8);
    ck_assert_int_eq(receive(), -EAGAIN);
    connect_it();
    ck_assert_int_eq(write(peer,
                           "\0\0\0\x0e"
                           "abcdefghijklmn",
                           18),
                     18);
    ck_assert_int_eq(receive(), NET_HEADER_SIZE + 14);
    ck_assert_mem_eq(got + NET_HEADER_SIZE, "abcdefghijklmn", 14);
}
END_TEST

// A reader that is slow loses whole frames, never a part of one.
START_TEST(slow_readers_lose_whole_frames)
{
    static uint8_t frame[60000], in[4 + 60000];
    unsigned sent = 0, came = 0;
    connect_it();
    for (unsigned i = 0; i < 200; i++) {
        memset(frame, (int)i, sizeof(frame));
        sent += send_frame(frame, sizeof(frame)) > 0;
    }
    ck_assert_uint_gt(sent, 0);
    ck_assert_uint_lt(sent, 200);
    struct pollfd p = {.fd = peer, .events = POLLIN};
    while (came < sent) {
        size_t done = 0;
        while (done < sizeof(in)) {
            receive(); // hands on what was kept
            if (poll(&p, 1, 1000) != 1)
                break;
            ssize_t n = read(peer, in + done, sizeof(in) - done);
            ck_assert_int_gt(n, 0);
            done += (size_t)n;
        }
        ck_assert_uint_eq(done, sizeof(in));
        ck_assert_mem_eq(in, "\0\0\xea\x60", 4);
        for (size_t i = 5; i < sizeof(in); i++)
            ck_assert_uint_eq(in[i], in[4]);
        came++;
    }
    ck_assert_int_eq(poll(&p, 1, 0), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("net-stream");
    TCase *t = tcase_create("stream");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, without_a_connection_nothing_goes);
    tcase_add_test(t, lost_helper_is_said_once);
    tcase_add_test(t, other_descriptors_are_refused);
    tcase_add_test(t, frames_go_both_ways);
    tcase_add_loop_test(t, peers_that_break_the_format_are_hung_up, 0,
                        (int)(sizeof(bad_lengths) / sizeof(bad_lengths[0])));
    tcase_add_test(t, half_a_frame_of_an_old_connection_is_forgotten);
    tcase_add_test(t, slow_readers_lose_whole_frames);
    suite_add_tcase(s, t);
    return run_suite(s);
}
