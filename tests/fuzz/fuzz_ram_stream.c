// Bytes as the data connection of a migration, and if their number is odd as each of two: whatever
// comes, nothing outside of the guest's RAM is written, and the receiver ends by itself.
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/ram_receiver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 16, GUARD = GUEST_PAGE_SIZE, INPUT_LIMIT = 100000, STREAMS = 2 };

static uint8_t *make_memory(struct guest_memory *memory)
{
    // Two regions with a hole between them, and guards around each that the kernel watches.
    size_t region = PAGES * GUEST_PAGE_SIZE, size = 2 * region + 3 * GUARD;
    uint8_t *all = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        abort();
    uint8_t *low = all + GUARD, *high = low + region + GUARD;
    mprotect(low, region, PROT_READ | PROT_WRITE);
    mprotect(high, region, PROT_READ | PROT_WRITE);
    guest_memory_init(memory);
    if (guest_memory_add(memory, 0, low, region) < 0 ||
        guest_memory_add(memory, 0x100000, high, region) < 0)
        abort();
    return all;
}

static void on_round(void *opaque, uint32_t round)
{
}
static void on_failed(void *opaque, const struct error *err)
{
    if (!err->message[0])
        abort();
    sem_post(opaque);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest_memory memory;
    static uint8_t *all;
    struct ram_receiver *receiver;
    struct error err = {0};
    struct channel channels[STREAMS];
    unsigned count = size % 2 ? STREAMS : 1;
    int fds[STREAMS][2];
    sem_t failed;
    if (!all)
        all = make_memory(&memory);
    const struct ram_receiver_events events = {on_round, on_failed, &failed};
    if (size > INPUT_LIMIT)
        return 0;
    sem_init(&failed, 0, 0);
    for (unsigned i = 0; i < count; i++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]) < 0)
            abort();
        channel_adopt(&channels[i], fds[i][0]);
    }
    if (ram_receiver_start(&receiver, &memory, channels, count, &events, &err) < 0)
        abort();
    // All fits into a socket's buffer: one that waits for the other at a barrier holds up nothing.
    for (unsigned i = 0; i < count; i++) {
        for (size_t done = 0; done < size;) {
            ssize_t n = send(fds[i][1], data + done, size - done, MSG_NOSIGNAL);
            if (n <= 0)
                break;
            done += (size_t)n;
        }
        shutdown(fds[i][1], SHUT_WR);
    }
    sem_wait(&failed); // the end of the stream is a failure too
    // An error ends the thread before it has read all: the sender must not hang in that case.
    ram_receiver_stop(receiver);
    for (unsigned i = 0; i < count; i++) {
        channel_close(&channels[i]);
        close(fds[i][1]);
    }
    sem_destroy(&failed);
    return 0;
}
