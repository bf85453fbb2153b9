// vsock_talk echo PORT CONNECTIONS: sends back what so many clients of the host send, one after the
// other. vsock_talk send PORT BYTES: connects to the host's PORT, sends noise and checks that it
// comes back.
//
// busybox knows no vsock. The status is 0 when all was right.
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 65536 };

static int fails(const char *what)
{
    printf("vsock_talk: ");
    fflush(stdout);
    perror(what);
    return 1;
}

static bool write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n <= 0)
            return false;
        bytes += n;
        length -= (size_t)n;
    }
    return true;
}

static int echo(unsigned port, unsigned long connections)
{
    static uint8_t bytes[PIECE];
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 8) < 0)
        return fails("listening");
    printf("vsock_talk: listening\n");
    fflush(stdout);
    while (connections-- > 0) {
        int fd = accept(listener, NULL, NULL);
        ssize_t n;
        if (fd < 0)
            return fails("accepting");
        while ((n = read(fd, bytes, sizeof(bytes))) > 0)
            if (!write_all(fd, bytes, (size_t)n))
                return fails("writing");
        if (n < 0)
            return fails("reading");
        close(fd);
    }
    printf("vsock_talk: echoed\n");
    return 0;
}

// Byte `at` of the noise.
static uint8_t noise(uint64_t at)
{
    uint64_t word = (at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint8_t)((word ^ word >> 29) >> at % 8 * 8);
}

static int converse(int fd, uint64_t bytes)
{
    static uint8_t out[PIECE], in[PIECE];
    uint64_t sent = 0, received = 0;
    while (received < bytes) {
        struct pollfd ready = {.fd = fd, .events = (short)(POLLIN | (sent < bytes ? POLLOUT : 0))};
        if (poll(&ready, 1, -1) < 0)
            return fails("waiting");
        if (ready.revents & POLLOUT) {
            size_t length = bytes - sent < PIECE ? (size_t)(bytes - sent) : PIECE;
            for (size_t i = 0; i < length; i++)
                out[i] = noise(sent + i);
            ssize_t n = send(fd, out, length, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += n > 0 ? (uint64_t)n : 0;
        }
        if (!(ready.revents & (POLLIN | POLLHUP | POLLERR)))
            continue;
        ssize_t n = recv(fd, in, sizeof(in), MSG_DONTWAIT);
        if (n <= 0)
            return fails("its end came too early");
        for (ssize_t i = 0; i < n; i++, received++)
            if (in[i] != noise(received)) {
                printf("vsock_talk: byte %llu is wrong\n", (unsigned long long)received);
                return 1;
            }
    }
    shutdown(fd, SHUT_WR);
    if (read(fd, in, 1) != 0)
        return fails("its end");
    printf("vsock_talk: sent and received %llu\n", (unsigned long long)bytes);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "echo") == 0)
        return echo((unsigned)strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
    if (argc == 4 && strcmp(argv[1], "send") == 0) {
        struct sockaddr_vm address = {.svm_family = AF_VSOCK,
                                      .svm_port = (unsigned)strtoul(argv[2], NULL, 0),
                                      .svm_cid = VMADDR_CID_HOST};
        int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
            return fails("connecting");
        return converse(fd, strtoull(argv[3], NULL, 0));
    }
    fprintf(stderr, "usage: vsock_talk echo PORT CONNECTIONS | send PORT BYTES\n");
    return 2;
}
