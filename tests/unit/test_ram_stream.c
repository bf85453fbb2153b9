// RAM from a real sender to a real receiver over connections of this host: all of it arrives, and
// what comes next is announced to those who know what that means.
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migrate/protocol.h"
#include "migrate/ram_receiver.h"
#include "migrate/ram_sender.h"
#include "tests/unit/run_suite.h"

enum { PIECE = 2 << 20, SIZE = 6 * PIECE, PAGES = SIZE / GUEST_PAGE_SIZE, STREAMS = 4 };

struct side {
    struct guest_memory memory;
    uint8_t *hva;
    struct channel channels[STREAMS];
};

static void make_side(struct side *side)
{
    side->hva = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(side->hva != MAP_FAILED);
    guest_memory_init(&side->memory);
    ck_assert_int_eq(guest_memory_add(&side->memory, 0, side->hva, SIZE), 0);
}

static void free_side(struct side *side, unsigned streams)
{
    for (unsigned i = 0; i < streams; i++)
        channel_close(&side->channels[i]);
    munmap(side->hva, SIZE);
    guest_memory_destroy(&side->memory);
}

static void connect_sides(struct side *from, struct side *to, unsigned streams)
{
    for (unsigned i = 0; i < streams; i++) {
        int fds[2];
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        channel_adopt(&from->channels[i], fds[0]);
        channel_adopt(&to->channels[i], fds[1]);
    }
}

// Piece 0 is noise, 1 was never touched, 2 is zero, 3 has one page, 4 is noise with a hole of
// zeros, 5 is noise.
static void fill(uint8_t *hva)
{
    for (unsigned page = 0; page < PAGES; page++) {
        unsigned piece = page / 512, in_piece = page % 512;
        uint8_t *at = hva + (size_t)page * GUEST_PAGE_SIZE;
        bool hole = piece == 4 && in_piece > 100 && in_piece < 120;
        if (piece == 2)
            memset(at, 0, GUEST_PAGE_SIZE);
        else if (piece == 0 || piece == 5 || (piece == 4 && !hole) || (piece == 3 && in_piece == 7))
            memset(at, (int)(page % 255 + 1), GUEST_PAGE_SIZE);
    }
}

static void on_round(void *opaque, uint32_t round)
{
    atomic_store((_Atomic uint32_t *)opaque, round);
}
static void on_failed(void *opaque, const struct error *err)
{
    ck_abort_msg("%s", err->message);
}

static void await_round(_Atomic uint32_t *done, uint32_t round)
{
    for (int i = 0; i < 60000 && atomic_load(done) != round; i++)
        usleep(1000);
    ck_assert_uint_eq(atomic_load(done), round);
}

// Two rounds; `_i` is streams, twice: with announcements and without.
START_TEST(test_all_arrives)
{
    unsigned streams = _i / 2 ? STREAMS : 1;
    bool announce = _i % 2;
    struct side from = {0}, to = {0};
    struct ram_receiver *receiver;
    struct ram_sender *sender;
    struct page_bitmap pages;
    struct error err = {0};
    _Atomic uint32_t done = 0;
    const struct ram_receiver_events events = {on_round, on_failed, &done};
    make_side(&from);
    make_side(&to);
    connect_sides(&from, &to, streams);
    fill(from.hva);
    ck_assert_int_eq(page_bitmap_init(&pages, &from.memory), 0);
    page_bitmap_fill(&pages, &from.memory);
    ck_assert_int_eq(ram_receiver_start(&receiver, &to.memory, to.channels, streams, &events, &err),
                     0);
    ck_assert_int_eq(
        ram_sender_start(&sender, &from.memory, from.channels, streams, 0, announce, &err), 0);
    ck_assert_int_eq(ram_sender_round(sender, &pages, 1, true, &err), 0);
    await_round(&done, 1);
    ck_assert_int_eq(memcmp(from.hva, to.hva, SIZE), 0);
    // What has become zero, and what wasn't there, at the second round.
    memset(from.hva + (size_t)5 * PIECE, 0, PIECE);
    memset(from.hva + PIECE, 7, PIECE);
    ck_assert_int_eq(ram_sender_round(sender, &pages, 2, true, &err), 0);
    await_round(&done, 2);
    ck_assert_int_eq(memcmp(from.hva, to.hva, SIZE), 0);
    ram_sender_stop(sender);
    ram_receiver_stop(receiver);
    page_bitmap_free(&pages);
    free_side(&from, streams);
    free_side(&to, streams);
}
END_TEST

struct wire {
    struct channel *channel;
    unsigned announced, unannounced; // pages that came
    unsigned frames;                 // COMING
};

// Reads a round as it is on the wire.
static void *read_wire(void *opaque)
{
    struct wire *wire = opaque;
    struct byte_writer frame;
    uint32_t type = 0;
    bool known[PAGES] = {false};
    byte_writer_init(&frame);
    while (type != MIGRATE_ROUND &&
           channel_receive_frame(wire->channel, MIGRATE_RUN_LIMIT * GUEST_PAGE_SIZE + 8, &type,
                                 &frame) == 0) {
        uint64_t first = frame.length >= 8 ? bytes_get_u64(frame.data) / GUEST_PAGE_SIZE : 0;
        uint64_t count = type == MIGRATE_COMING  ? bytes_get_u64(frame.data + 8)
                         : type == MIGRATE_PAGES ? (frame.length - 8) / GUEST_PAGE_SIZE
                                                 : 0;
        wire->frames += type == MIGRATE_COMING;
        for (uint64_t i = first; i < first + count && i < PAGES; i++) {
            if (type == MIGRATE_COMING)
                known[i] = true;
            else if (known[i])
                wire->announced++;
            else
                wire->unannounced++;
        }
    }
    byte_writer_free(&frame);
    return NULL;
}

// A whole piece is announced before its first page, a single page and what is zero never; and
// nothing at all to a target of an earlier version.
START_TEST(test_announcements)
{
    struct side from = {0}, to = {0};
    struct wire wire = {.channel = &to.channels[0]};
    struct ram_sender *sender;
    struct page_bitmap pages;
    struct error err = {0};
    pthread_t reader;
    make_side(&from);
    make_side(&to);
    connect_sides(&from, &to, 1);
    fill(from.hva);
    ck_assert_int_eq(page_bitmap_init(&pages, &from.memory), 0);
    page_bitmap_fill(&pages, &from.memory);
    pthread_create(&reader, NULL, read_wire, &wire);
    ck_assert_int_eq(ram_sender_start(&sender, &from.memory, from.channels, 1, 0, _i == 1, &err),
                     0);
    ck_assert_int_eq(ram_sender_round(sender, &pages, 1, true, &err), 0);
    pthread_join(reader, NULL);
    ck_assert_uint_eq(wire.frames, _i == 1 ? 3 : 0);
    ck_assert_uint_eq(wire.announced, _i == 1 ? 3 * 512 - 19 : 0);
    ck_assert_uint_eq(wire.unannounced, _i == 1 ? 1 : 3 * 512 - 19 + 1);
    ram_sender_stop(sender);
    page_bitmap_free(&pages);
    free_side(&from, 1);
    free_side(&to, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram stream");
    TCase *tc = tcase_create("ram stream");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_all_arrives, 0, 4);
    tcase_add_loop_test(tc, test_announcements, 0, 2);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
