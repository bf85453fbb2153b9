// blk_verify DEVICE THREADS DEPTH OPERATIONS SEED [SECTORS]: uses a disk in every way there is and
// checks that it has what was last written: reads, writes, flushes, discards and zeroes of random
// lengths (up to SECTORS, 512) at random places, past the page cache, from several threads (each on
// a CPU of its own, so that each has its queue) with DEPTH requests in flight each. The disk is
// taken to read as zero where it was discarded; it loses its contents.
//
// Says what it did, or what was wrong and where; its status is 0 when all was right.
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SECTOR = 512,
    WORDS = SECTOR / 8,
    DEPTH_LIMIT = 128,
    THREADS_LIMIT = 16,
    SECTORS_LIMIT = 2048
};

enum kind { READ, WRITE, FLUSH, DISCARD, ZERO, KINDS };
static const char *const kind_names[KINDS] = {"reads", "writes", "flushes", "discards", "zeroes"};

struct request {
    bool busy, writes;
    uint64_t first, count; // sectors
    uint64_t *buffer;
    struct iocb iocb;
};

// One thread and the part of the disk that is its own.
struct worker {
    pthread_t thread;
    unsigned index;
    uint64_t first, count; // sectors
    uint32_t *generations; // of each: what was written last; 0: zeroes
    uint64_t random;
    aio_context_t context;
    struct request requests[DEPTH_LIMIT];
    unsigned in_flight;
    uint64_t done[KINDS];
    bool failed;
};

static int disk;
static unsigned depth, longest = 512;
static uint64_t operations, seed;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fill(uint64_t *words, uint64_t sector, uint32_t generation)
{
    uint64_t state = seed ^ sector << 32 ^ generation;
    words[0] = sector;
    words[1] = generation;
    for (unsigned i = 2; i < WORDS; i++)
        words[i] = next_random(&state);
    if (!generation)
        memset(words, 0, SECTOR);
}

static bool check(struct worker *w, const uint64_t *words, uint64_t first, uint64_t count)
{
    uint64_t wanted[WORDS];
    for (uint64_t i = 0; i < count; i++, words += WORDS) {
        uint64_t sector = first + i;
        uint32_t generation = w->generations[sector - w->first];
        fill(wanted, sector, generation);
        if (memcmp(words, wanted, SECTOR) == 0)
            continue;
        printf("blk_verify: sector %llu should be of generation %u; it begins %llx %llx (sector, "
               "generation)\n",
               (unsigned long long)sector, generation, (unsigned long long)words[0],
               (unsigned long long)words[1]);
        return false;
    }
    return true;
}

static bool fails(const char *what, uint64_t first, uint64_t count)
{
    printf("blk_verify: %s of %llu sectors from %llu: %s\n", what, (unsigned long long)count,
           (unsigned long long)first, strerror(errno));
    return false;
}

// Waits for at least `least` requests.
static bool reap(struct worker *w, unsigned least)
{
    struct io_event events[DEPTH_LIMIT];
    long n = syscall(SYS_io_getevents, w->context, (long)least, (long)DEPTH_LIMIT, events, NULL);
    if (n < 0)
        return errno == EINTR || fails("waiting", 0, 0);
    for (long i = 0; i < n; i++) {
        struct request *r = (struct request *)(uintptr_t)events[i].data;
        r->busy = false;
        w->in_flight--;
        if (events[i].res != (int64_t)(r->count * SECTOR)) {
            errno = events[i].res < 0 ? (int)-events[i].res : EIO;
            return fails(r->writes ? "write" : "read", r->first, r->count);
        }
        if (!r->writes && !check(w, r->buffer, r->first, r->count))
            return false;
    }
    return true;
}

static bool is_in_use(const struct worker *w, uint64_t first, uint64_t count, bool changes)
{
    for (unsigned i = 0; i < depth; i++) {
        const struct request *r = &w->requests[i];
        if (r->busy && (changes || r->writes) && first < r->first + r->count &&
            r->first < first + count)
            return true;
    }
    return false;
}

static bool transfer(struct worker *w, bool writes, uint64_t first, uint64_t count)
{
    struct request *r = w->requests;
    while (r->busy)
        r++;
    *r = (struct request){
        .busy = true, .writes = writes, .first = first, .count = count, .buffer = r->buffer};
    for (uint64_t i = 0; writes && i < count; i++)
        fill(r->buffer + i * WORDS, first + i, ++w->generations[first + i - w->first]);
    r->iocb = (struct iocb){.aio_data = (uintptr_t)r,
                            .aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                            .aio_fildes = (uint32_t)disk,
                            .aio_buf = (uintptr_t)r->buffer,
                            .aio_nbytes = count * SECTOR,
                            .aio_offset = (int64_t)(first * SECTOR)};
    struct iocb *one = &r->iocb;
    if (syscall(SYS_io_submit, w->context, 1L, &one) != 1)
        return fails("submission", first, count);
    w->in_flight++;
    return true;
}

static bool clear(struct worker *w, enum kind kind, uint64_t first, uint64_t count)
{
    uint64_t range[2] = {first * SECTOR, count * SECTOR};
    if (ioctl(disk, kind == ZERO ? BLKZEROOUT : BLKDISCARD, range) < 0)
        return fails(kind == ZERO ? "zeroing" : "discard", first, count);
    memset(&w->generations[first - w->first], 0, count * sizeof(w->generations[0]));
    return true;
}

static enum kind choose_kind(struct worker *w)
{
    unsigned n = next_random(&w->random) % 100;
    return n < 42 ? READ : n < 84 ? WRITE : n < 90 ? FLUSH : n < 95 ? DISCARD : ZERO;
}

// Any length, often a single sector or a page, on a page's boundary every other time.
static void choose_place(struct worker *w, uint64_t *first, uint64_t *count)
{
    uint64_t r = next_random(&w->random);
    *count = r % 4 == 0 ? 1 : r % 4 == 1 ? 8 : 1 + (r >> 8) % longest;
    *first = next_random(&w->random) % (w->count - *count);
    if (r >> 4 & 1)
        *first -= *first % 8;
    *first += w->first;
}

static bool one_operation(struct worker *w)
{
    uint64_t first, count;
    enum kind kind = choose_kind(w);
    choose_place(w, &first, &count);
    while (w->in_flight == depth || (kind != FLUSH && is_in_use(w, first, count, kind != READ)))
        if (!reap(w, 1))
            return false;
    w->done[kind]++;
    switch (kind) {
    case READ:
    case WRITE:
        return transfer(w, kind == WRITE, first, count);
    case FLUSH:
        return fdatasync(disk) == 0 || fails("flush", 0, 0);
    default:
        return clear(w, kind, first, count);
    }
}

static bool check_all(struct worker *w)
{
    for (uint64_t at = 0, count; at < w->count; at += count) {
        uint64_t *buffer = w->requests[0].buffer;
        count = w->count - at < longest ? w->count - at : longest;
        if (pread(disk, buffer, count * SECTOR, (off_t)((w->first + at) * SECTOR)) !=
            (ssize_t)(count * SECTOR))
            return fails("last read", w->first + at, count);
        if (!check(w, buffer, w->first + at, count))
            return false;
    }
    return true;
}

static bool work(struct worker *w)
{
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(w->index % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &cpu);
    sched_setaffinity(0, sizeof(cpu), &cpu);
    if (syscall(SYS_io_setup, (long)depth, &w->context) < 0)
        return fails("io_setup", w->first, w->count);
    if (!clear(w, ZERO, w->first, w->count))
        return false;
    for (uint64_t n = 0; n < operations; n++)
        if (!one_operation(w))
            return false;
    while (w->in_flight)
        if (!reap(w, w->in_flight))
            return false;
    return check_all(w);
}

static void *worker_main(void *opaque)
{
    struct worker *w = opaque;
    w->failed = !work(w);
    return NULL;
}

static bool prepare(struct worker *w, unsigned index, uint64_t sectors)
{
    w->index = index;
    w->first = index * sectors;
    w->count = sectors;
    w->random = seed + index;
    w->generations = calloc(sectors, sizeof(w->generations[0]));
    for (unsigned i = 0; i < depth; i++)
        if (posix_memalign((void **)&w->requests[i].buffer, 4096, (size_t)longest * SECTOR) != 0)
            return false;
    return w->generations != NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[THREADS_LIMIT];
    uint64_t bytes = 0, done[KINDS] = {0};
    unsigned threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    depth = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 0;
    operations = argc > 4 ? strtoull(argv[4], NULL, 0) : 0;
    seed = argc > 5 ? strtoull(argv[5], NULL, 0) : 0;
    longest = argc > 6 ? (unsigned)strtoul(argv[6], NULL, 0) : longest;
    if (argc < 6 || argc > 7 || !threads || threads > THREADS_LIMIT || !depth ||
        depth > DEPTH_LIMIT || !longest || longest > SECTORS_LIMIT) {
        fprintf(stderr, "usage: blk_verify DEVICE THREADS DEPTH OPERATIONS SEED [SECTORS]\n");
        return 2;
    }
    disk = open(argv[1], O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes) < 0) {
        perror(argv[1]);
        return 1;
    }
    bool failed = bytes / SECTOR / threads <= longest;
    for (unsigned i = 0; i < threads && !failed; i++)
        failed = !prepare(&workers[i], i, bytes / SECTOR / threads);
    if (failed) {
        fprintf(stderr, "blk_verify: the disk is too small, or there is not enough memory\n");
        return 1;
    }
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0)
            return 1;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        failed |= workers[i].failed;
        for (unsigned k = 0; k < KINDS; k++)
            done[k] += workers[i].done[k];
    }
    printf("blk_verify: threads=%u depth=%u", threads, depth);
    for (unsigned k = 0; k < KINDS; k++)
        printf(" %s=%llu", kind_names[k], (unsigned long long)done[k]);
    printf(" result=%s\n", failed ? "fail" : "pass");
    return failed;
}
