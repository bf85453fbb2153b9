// The queue module against well-behaved and hostile rings, without a device around it.
#include <check.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "devices/virtio/queue.h"
#include "tests/unit/run_suite.h"

enum {
    RAM_SIZE = 1 << 20,
    SIZE = 8,
    DESCRIPTORS = 0x1000,
    AVAILABLE = 0x2000,
    USED = 0x3000,
    DATA = 0x10000,
    TABLE = 0x8000, // of indirect descriptors
};

static struct guest_memory memory;
static uint8_t *ram;
static struct virtqueue queue;
static struct virtqueue_chain chain;
static unsigned interrupts, breaks;
static const char *broken_why;

static void on_interrupt(struct virtqueue *q)
{
    interrupts++;
}

static void on_broken(struct virtqueue *q, const char *why)
{
    breaks++;
    broken_why = why;
}

static const struct virtqueue_owner owner = {.interrupt = on_interrupt, .broken = on_broken};

static void set_up(void)
{
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(ram != MAP_FAILED);
    guest_memory_init(&memory);
    ck_assert_int_eq(guest_memory_add(&memory, 0, ram, RAM_SIZE), 0);
    virtqueue_init(&queue, &memory, &owner);
    queue.size = SIZE;
    queue.descriptors_gpa = DESCRIPTORS;
    queue.available_gpa = AVAILABLE;
    queue.used_gpa = USED;
    queue.indirect = true;
    ck_assert_int_eq(virtqueue_enable(&queue), 0);
    interrupts = breaks = 0;
}

static void tear_down(void)
{
    guest_memory_destroy(&memory);
    munmap(ram, RAM_SIZE);
}

static void put_at(uint64_t table, unsigned index, uint64_t gpa, uint32_t length, uint16_t flags,
                   uint16_t next)
{
    uint8_t *p = ram + table + 16 * index;
    bytes_put_u64(p, gpa);
    bytes_put_u32(p + 8, length);
    bytes_put_u16(p + 12, flags);
    bytes_put_u16(p + 14, next);
}

static void put(unsigned index, uint64_t gpa, uint32_t length, uint16_t flags, uint16_t next)
{
    put_at(DESCRIPTORS, index, gpa, length, flags, next);
}

static uint16_t available_index(void)
{
    return bytes_get_u16(ram + AVAILABLE + 2);
}

static void offer(uint16_t head)
{
    uint16_t index = available_index();
    bytes_put_u16(ram + AVAILABLE + 4 + 2 * (index % SIZE), head);
    bytes_put_u16(ram + AVAILABLE + 2, (uint16_t)(index + 1));
}

static uint16_t used_index(void)
{
    return bytes_get_u16(ram + USED + 2);
}

static void set_used_event(uint16_t index)
{
    bytes_put_u16(ram + AVAILABLE + 4 + 2 * SIZE, index);
}

static uint16_t available_event(void)
{
    return bytes_get_u16(ram + USED + 4 + 8 * SIZE);
}

enum { NEXT = VIRTQ_DESC_F_NEXT, WRITE = VIRTQ_DESC_F_WRITE, INDIRECT = VIRTQ_DESC_F_INDIRECT };

START_TEST(chain_is_collected)
{
    put(2, DATA, 16, NEXT, 5);
    put(5, DATA + 0x100, 32, NEXT, 1);
    put(1, DATA + 0x200, 512, WRITE | NEXT, 7);
    put(7, DATA + 0x1000, 1, WRITE, 0);
    offer(2);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.head, 2);
    ck_assert_uint_eq(chain.out_count, 2);
    ck_assert_uint_eq(chain.in_count, 2);
    ck_assert_uint_eq(chain.out_bytes, 48);
    ck_assert_uint_eq(chain.in_bytes, 513);
    ck_assert_ptr_eq(chain.iov[1].iov_base, ram + DATA + 0x100);
    ck_assert_uint_eq(chain.gpa[3], DATA + 0x1000);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 0);
    ck_assert_uint_eq(virtqueue_in_flight(&queue), 1);

    virtqueue_push(&queue, &chain, 513);
    ck_assert_uint_eq(used_index(), 0); // staged
    virtqueue_publish(&queue);
    ck_assert_uint_eq(used_index(), 1);
    ck_assert_uint_eq(bytes_get_u32(ram + USED + 4), 2);
    ck_assert_uint_eq(bytes_get_u32(ram + USED + 8), 513);
    ck_assert_uint_eq(interrupts, 1);
}
END_TEST

START_TEST(zero_length_segments_are_nothing)
{
    put(0, DATA, 0, NEXT, 1);
    put(1, UINT64_MAX, 0, NEXT, 2); // not even looked at
    put(2, DATA, 4, WRITE, 0);
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.out_count, 0);
    ck_assert_uint_eq(chain.in_count, 1);
}
END_TEST

// Direct descriptors before an indirect one are legal (2.7.5.3.2).
START_TEST(indirect_table_behind_direct_descriptor)
{
    put(0, DATA, 16, NEXT, 1);
    put(1, TABLE, 32, INDIRECT | WRITE, 99); // WRITE is to be ignored there
    put_at(TABLE, 0, DATA + 16, 8, NEXT, 1);
    put_at(TABLE, 1, DATA + 64, 8, WRITE, 0);
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.out_bytes, 24);
    ck_assert_uint_eq(chain.in_bytes, 8);
}
END_TEST

START_TEST(longest_chains_are_taken)
{
    for (unsigned i = 0; i < SIZE; i++) {
        put(i, DATA + i, 1, i + 1 < SIZE ? NEXT : 0, (uint16_t)(i + 1));
        put_at(TABLE, i, DATA + i, 1, i + 1 < SIZE ? NEXT : 0, (uint16_t)(i + 1));
    }
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.out_count, SIZE);
    put(0, TABLE, 16 * SIZE, INDIRECT, 0);
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.out_count, SIZE);
}
END_TEST

// Each case prepares descriptors (0 is the head unless said otherwise) that must break the queue.

static void beyond_ram(void)
{
    put(0, RAM_SIZE - 4, 8, 0, 0);
}
static void outside_of_ram(void)
{
    put(0, UINT64_C(0x100000000), 8, WRITE, 0);
}
static void address_wraps(void)
{
    put(0, UINT64_MAX - 3, 8, 0, 0);
}
static void length_is_huge(void)
{
    put(0, DATA, UINT32_MAX, WRITE, 0);
}
static void chain_loops(void)
{
    put(0, DATA, 8, NEXT, 1);
    put(1, DATA, 8, NEXT, 0);
}
static void chain_loops_on_itself(void)
{
    put(0, DATA, 0, NEXT, 0);
}
static void next_beyond_ring(void)
{
    put(0, DATA, 8, NEXT, SIZE);
}
static void head_beyond_ring(void)
{
    bytes_put_u16(ram + AVAILABLE + 4, SIZE);
}
static void readable_behind_writable(void)
{
    put(0, DATA, 8, WRITE | NEXT, 1);
    put(1, DATA, 8, 0, 0);
}
static void indirect_in_indirect(void)
{
    put(0, TABLE, 32, INDIRECT, 0);
    put_at(TABLE, 0, TABLE + 64, 16, INDIRECT, 0);
}
static void indirect_and_next(void)
{
    put(0, TABLE, 16, INDIRECT | NEXT, 1);
    put_at(TABLE, 0, DATA, 8, 0, 0);
}
static void indirect_of_odd_size(void)
{
    put(0, TABLE, 24, INDIRECT, 0);
}
static void indirect_of_no_size(void)
{
    put(0, TABLE, 0, INDIRECT, 0);
}
static void indirect_outside_of_ram(void)
{
    put(0, RAM_SIZE - 16, 32, INDIRECT, 0);
}
static void indirect_next_beyond_table(void)
{
    put(0, TABLE, 32, INDIRECT, 0);
    put_at(TABLE, 0, DATA, 8, NEXT, 2);
}
static void indirect_longer_than_queue(void)
{
    put(0, TABLE, 16 * (SIZE + 1), INDIRECT, 0);
    for (unsigned i = 0; i <= SIZE; i++)
        put_at(TABLE, i, DATA, 1, i < SIZE ? NEXT : 0, (uint16_t)(i + 1));
}
static void indirect_not_negotiated(void)
{
    queue.indirect = false;
    put(0, TABLE, 16, INDIRECT, 0);
    put_at(TABLE, 0, DATA, 8, 0, 0);
}
static void too_many_available(void)
{
    put(0, DATA, 8, 0, 0);
    bytes_put_u16(ram + AVAILABLE + 2, SIZE + 1);
}

static void (*const hostile[])(void) = {
    beyond_ram,
    outside_of_ram,
    address_wraps,
    length_is_huge,
    chain_loops,
    chain_loops_on_itself,
    next_beyond_ring,
    head_beyond_ring,
    readable_behind_writable,
    indirect_in_indirect,
    indirect_and_next,
    indirect_of_odd_size,
    indirect_of_no_size,
    indirect_outside_of_ram,
    indirect_next_beyond_table,
    indirect_longer_than_queue,
    indirect_not_negotiated,
    too_many_available,
};

START_TEST(hostile_ring_breaks_the_queue_and_nothing_else)
{
    offer(0);
    hostile[_i]();
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), -EPROTO);
    ck_assert_uint_eq(breaks, 1);
    ck_assert_ptr_nonnull(broken_why);
    ck_assert_uint_eq(virtqueue_in_flight(&queue), 0);
    // From now on it is just empty, and the guest's memory isn't written.
    uint8_t before[64];
    memcpy(before, ram + USED, sizeof(before));
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 0);
    virtqueue_kicks_off(&queue);
    ck_assert(!virtqueue_kicks_on(&queue));
    virtqueue_publish(&queue);
    ck_assert_mem_eq(before, ram + USED, sizeof(before));
    ck_assert_uint_eq(breaks, 1);
    ck_assert_uint_eq(interrupts, 0);
    // A reset by the driver makes it whole.
    virtqueue_disable(&queue);
    queue.size = SIZE;
    queue.descriptors_gpa = DESCRIPTORS;
    queue.available_gpa = AVAILABLE;
    queue.used_gpa = USED;
    memset(ram + AVAILABLE, 0, 64);
    ck_assert_int_eq(virtqueue_enable(&queue), 0);
    put(3, DATA, 8, 0, 0);
    offer(3);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
}
END_TEST

// Chains of more than 4 GiB would make the used length wrap. There is no such RAM here, so a region
// is mapped several times over.
START_TEST(sum_of_lengths_does_not_wrap)
{
    const uint64_t gpa = UINT64_C(0x100000000), size = UINT64_C(0x60000000);
    void *big = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert(big != MAP_FAILED);
    ck_assert_int_eq(guest_memory_add(&memory, gpa, big, size), 0);
    for (unsigned i = 0; i < 4; i++)
        put(i, gpa, (uint32_t)size, WRITE | (i < 3 ? NEXT : 0), (uint16_t)(i + 1));
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), -EPROTO);
    munmap(big, size);
}
END_TEST

START_TEST(more_in_flight_than_descriptors)
{
    put(0, DATA, 8, 0, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        offer(0); // the same chain again and again
        ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    }
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), -EPROTO);
    ck_assert_uint_eq(virtqueue_in_flight(&queue), SIZE);
}
END_TEST

static int enable_with(uint16_t size, uint64_t descriptors, uint64_t available, uint64_t used)
{
    virtqueue_disable(&queue);
    queue.size = size;
    queue.descriptors_gpa = descriptors;
    queue.available_gpa = available;
    queue.used_gpa = used;
    int rc = virtqueue_enable(&queue);
    ck_assert_int_eq(queue.enabled, rc == 0);
    return rc;
}

START_TEST(rings_are_checked_when_enabled)
{
    ck_assert_int_eq(enable_with(SIZE, DESCRIPTORS, AVAILABLE, USED), 0);
    ck_assert_int_eq(enable_with(1, DESCRIPTORS, AVAILABLE, USED), 0);
    ck_assert_int_eq(enable_with(VIRTQUEUE_SIZE_LIMIT, DESCRIPTORS, AVAILABLE, USED), 0);
    ck_assert_int_lt(enable_with(0, DESCRIPTORS, AVAILABLE, USED), 0);
    ck_assert_int_lt(enable_with(6, DESCRIPTORS, AVAILABLE, USED), 0);
    ck_assert_int_lt(enable_with(2 * VIRTQUEUE_SIZE_LIMIT, DESCRIPTORS, AVAILABLE, USED), 0);
    // Alignment.
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS + 8, AVAILABLE, USED), 0);
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS, AVAILABLE + 1, USED), 0);
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS, AVAILABLE, USED + 2), 0);
    // The last byte of each at the end of RAM, and one unit beyond.
    ck_assert_int_eq(enable_with(SIZE, RAM_SIZE - 16 * SIZE, AVAILABLE, USED), 0);
    ck_assert_int_lt(enable_with(SIZE, RAM_SIZE - 16 * SIZE + 16, AVAILABLE, USED), 0);
    ck_assert_int_eq(enable_with(SIZE, DESCRIPTORS, RAM_SIZE - 2 * SIZE - 6, USED), 0);
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS, RAM_SIZE - 2 * SIZE - 4, USED), 0);
    ck_assert_int_eq(enable_with(SIZE, DESCRIPTORS, AVAILABLE, RAM_SIZE - 8 * SIZE - 8), 0);
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS, AVAILABLE, RAM_SIZE - 8 * SIZE - 4), 0);
    ck_assert_int_lt(enable_with(SIZE, DESCRIPTORS, AVAILABLE, UINT64_MAX - 3), 0);
}
END_TEST

// A ring may not straddle two regions, even when they touch.
START_TEST(rings_lie_in_one_region)
{
    uint8_t *more = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_int_eq(guest_memory_add(&memory, RAM_SIZE, more, 4096), 0);
    ck_assert_int_lt(enable_with(SIZE, RAM_SIZE - 64, AVAILABLE, USED), 0);
    ck_assert_int_eq(enable_with(SIZE, RAM_SIZE, AVAILABLE, USED), 0);
    munmap(more, 4096);
}
END_TEST

static void pop_and_return(uint16_t head)
{
    offer(head);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    virtqueue_push(&queue, &chain, 0);
}

START_TEST(interrupts_follow_the_flag)
{
    put(0, DATA, 8, 0, 0);
    pop_and_return(0);
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, 1);
    bytes_put_u16(ram + AVAILABLE, VIRTQ_AVAIL_F_NO_INTERRUPT);
    pop_and_return(0);
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, 1);
    ck_assert_uint_eq(queue.suppressed, 1);
    virtqueue_publish(&queue); // nothing new
    ck_assert_uint_eq(queue.suppressed, 1);
}
END_TEST

START_TEST(interrupts_follow_the_event_index)
{
    queue.event_index = true;
    put(0, DATA, 8, 0, 0);
    bytes_put_u16(ram + AVAILABLE, VIRTQ_AVAIL_F_NO_INTERRUPT); // means nothing now (2.7.10)
    set_used_event(0);
    pop_and_return(0);
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, 1);
    set_used_event(3); // wants to hear of the fourth
    pop_and_return(0);
    virtqueue_publish(&queue);
    pop_and_return(0);
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, 1);
    ck_assert_uint_eq(queue.suppressed, 2);
    pop_and_return(0);
    pop_and_return(0); // passes it in a batch
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, 2);
}
END_TEST

// All of 2^16 indexes, twice: chains, interrupts and kicks work across the wrap.
START_TEST(indexes_wrap_around)
{
    queue.event_index = true;
    put(0, DATA, 8, WRITE, 0);
    for (unsigned i = 0; i < 2 * 65536 + 5; i++) {
        set_used_event((uint16_t)i);
        virtqueue_kicks_off(&queue);
        ck_assert(!virtqueue_kicks_on(&queue));
        ck_assert_uint_eq(bytes_get_u16(ram + USED), 0); // flags stay 0 with event indexes
        ck_assert_uint_eq(available_event(), (uint16_t)i);
        pop_and_return(0);
        virtqueue_publish(&queue);
        ck_assert_uint_eq(interrupts, i + 1);
        ck_assert_uint_eq(used_index(), (uint16_t)(i + 1));
    }
    // And at 65535 as the event that isn't reached, then is.
    while (used_index() != 65534) {
        set_used_event(65535);
        unsigned before = interrupts;
        pop_and_return(0);
        virtqueue_publish(&queue);
        ck_assert_uint_eq(interrupts, before);
    }
    unsigned before = interrupts;
    pop_and_return(0); // number 65534
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, before);
    pop_and_return(0); // number 65535
    virtqueue_publish(&queue);
    ck_assert_uint_eq(interrupts, before + 1);
}
END_TEST

START_TEST(kicks_are_asked_for_and_left_out)
{
    virtqueue_kicks_off(&queue);
    ck_assert_uint_eq(bytes_get_u16(ram + USED), VIRTQ_USED_F_NO_NOTIFY);
    ck_assert(!virtqueue_kicks_on(&queue));
    ck_assert_uint_eq(bytes_get_u16(ram + USED), 0);
    // The race: the driver adds after our last look and before the wish is visible.
    virtqueue_kicks_off(&queue);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 0);
    put(0, DATA, 8, 0, 0);
    offer(0);
    ck_assert(virtqueue_kicks_on(&queue));
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert(!virtqueue_kicks_on(&queue));
}
END_TEST

START_TEST(writes_are_marked)
{
    uint64_t bits[RAM_SIZE / 4096 / 64] = {0};
    put(0, DATA + 0xffe, 4, WRITE | NEXT, 1); // crosses a page
    put(1, DATA + 0x5000, 4, WRITE | NEXT, 2);
    put(2, DATA + 0x7000, 4, WRITE, 2);
    offer(0);
    guest_memory_log_start(&memory);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    guest_memory_log_take(&memory, 0, bits);
    for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        ck_assert_uint_eq(bits[i], 0); // looking marks nothing
    virtqueue_push(&queue, &chain, 5); // one byte of the second segment, none of the third
    guest_memory_log_take(&memory, 0, bits);
    ck_assert_uint_eq(bits[0], UINT64_C(1) << (DATA >> 12) | UINT64_C(1) << ((DATA >> 12) + 1) |
                                   UINT64_C(1) << ((DATA >> 12) + 5) | UINT64_C(1) << (USED >> 12));
    bits[0] = 0;
    virtqueue_publish(&queue); // the index
    guest_memory_log_take(&memory, 0, bits);
    ck_assert_uint_eq(bits[0], UINT64_C(1) << (USED >> 12));
    bits[0] = 0;
    virtqueue_kicks_off(&queue); // the flag
    guest_memory_log_take(&memory, 0, bits);
    ck_assert_uint_eq(bits[0], UINT64_C(1) << (USED >> 12));
    bits[0] = 0;
    queue.event_index = true;
    virtqueue_kicks_on(&queue); // the event index
    guest_memory_log_take(&memory, 0, bits);
    ck_assert_uint_eq(bits[0], UINT64_C(1) << (USED >> 12));
    bits[0] = 0;
    virtqueue_chain_written(&queue, &chain, 8, 1);
    guest_memory_log_take(&memory, 0, bits);
    ck_assert_uint_eq(bits[0], UINT64_C(1) << ((DATA >> 12) + 7));
}
END_TEST

START_TEST(chains_are_copied_across_segments)
{
    put(0, DATA, 3, NEXT, 1);
    put(1, DATA + 0x10, 5, NEXT, 2);
    put(2, DATA + 0x20, 2, WRITE | NEXT, 3);
    put(3, DATA + 0x30, 6, WRITE, 0);
    memcpy(ram + DATA, "abc", 3);
    memcpy(ram + DATA + 0x10, "defgh", 5);
    offer(0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    char out[16] = "";
    ck_assert_uint_eq(virtqueue_chain_read(&chain, 2, out, 4), 4);
    ck_assert_mem_eq(out, "cdef", 4);
    ck_assert_uint_eq(virtqueue_chain_read(&chain, 6, out, 16), 2);
    ck_assert_uint_eq(virtqueue_chain_read(&chain, 100, out, 16), 0);
    ck_assert_uint_eq(virtqueue_chain_write(&chain, 1, "XYZ", 3), 3);
    ck_assert_mem_eq(ram + DATA + 0x21, "X", 1);
    ck_assert_mem_eq(ram + DATA + 0x30, "YZ", 2);
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT];
    ck_assert_uint_eq(virtqueue_chain_slice(&chain, false, 1, 4, iov), 2);
    ck_assert_uint_eq(iov[0].iov_len, 2);
    ck_assert_uint_eq(iov[1].iov_len, 2);
    ck_assert_uint_eq(virtqueue_chain_slice(&chain, true, 2, 6, iov), 1);
    ck_assert_uint_eq(virtqueue_chain_slice(&chain, true, 8, 0, iov), 0);
}
END_TEST

START_TEST(rewound_chains_come_again)
{
    put(0, DATA, 8, 0, 0);
    put(1, DATA, 9, 0, 0);
    offer(0);
    offer(1);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.head, 1);
    virtqueue_rewind(&queue, 2);
    ck_assert_uint_eq(virtqueue_in_flight(&queue), 0);
    ck_assert_int_eq(virtqueue_pop(&queue, &chain), 1);
    ck_assert_uint_eq(chain.head, 0);
}
END_TEST

// State

static void save_into(struct byte_writer *w)
{
    byte_writer_init(w);
    virtqueue_save(&queue, w);
    ck_assert(!w->failed);
}

START_TEST(saved_queue_goes_on)
{
    put(0, DATA, 8, 0, 0);
    for (unsigned i = 0; i < 11; i++)
        pop_and_return(0);
    virtqueue_publish(&queue);
    struct byte_writer w;
    save_into(&w);
    struct virtqueue other;
    virtqueue_init(&other, &memory, &owner);
    struct byte_reader r;
    byte_reader_init(&r, w.data, w.length);
    struct error err = {0};
    ck_assert_int_eq(virtqueue_load(&other, &r, &err), 0);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    offer(0);
    interrupts = 0;
    virtqueue_publish(&other); // one interrupt may be repeated
    ck_assert_uint_eq(interrupts, 1);
    ck_assert_int_eq(virtqueue_pop(&other, &chain), 1);
    ck_assert_int_eq(virtqueue_pop(&other, &chain), 0);
    virtqueue_push(&other, &chain, 0);
    virtqueue_publish(&other);
    ck_assert_uint_eq(used_index(), 12);
    byte_writer_free(&w);
}
END_TEST

static void state_in_flight(void)
{
    queue.next_available++;
}
static void state_bad_size(void)
{
    queue.size = 24;
}
static void state_ring_outside(void)
{
    queue.used_gpa = RAM_SIZE;
}
static void state_ring_misaligned(void)
{
    queue.descriptors_gpa++;
}
static void state_position_of_disabled(void)
{
    queue.enabled = false;
    queue.next_available = queue.next_used = 5;
}

static void (*const hostile_states[])(void) = {
    state_in_flight,
    state_bad_size,
    state_ring_outside,
    state_ring_misaligned,
    state_position_of_disabled,
};

START_TEST(hostile_state_is_refused)
{
    struct virtqueue good = queue;
    struct byte_writer w;
    hostile_states[_i]();
    // virtqueue_save() would rightly refuse; so the fields are written as it would.
    struct virtqueue bad = queue;
    queue = good;
    byte_writer_init(&w);
    byte_writer_string(&w, "virtqueue");
    byte_writer_u16(&w, 1);
    byte_writer_u16(&w, 8);
    const struct {
        const char *name;
        uint8_t type;
        uint64_t value;
    } fields[] = {
        {"size", STATE_U16, bad.size},
        {"enabled", STATE_BOOL, bad.enabled},
        {"descriptors_gpa", STATE_U64, bad.descriptors_gpa},
        {"available_gpa", STATE_U64, bad.available_gpa},
        {"used_gpa", STATE_U64, bad.used_gpa},
        {"next_available", STATE_U16, bad.next_available},
        {"next_used", STATE_U16, bad.next_used},
        {"broken", STATE_BOOL, bad.broken},
    };
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        byte_writer_string(&w, fields[i].name);
        byte_writer_u8(&w, fields[i].type);
        byte_writer_u8(&w, 0);
        byte_writer_u32(&w, 1);
        unsigned width = fields[i].type == STATE_U16 ? 2 : fields[i].type == STATE_U64 ? 8 : 1;
        byte_writer_bytes(&w, &fields[i].value, width);
    }
    struct virtqueue other;
    virtqueue_init(&other, &memory, &owner);
    struct byte_reader r;
    byte_reader_init(&r, w.data, w.length);
    struct error err = {0};
    ck_assert_int_lt(virtqueue_load(&other, &r, &err), 0);
    ck_assert_str_ne(err.message, "");
    ck_assert(!other.enabled);
    byte_writer_free(&w);
}
END_TEST

// The schedule of both sides at once: neither a kick nor an interrupt may be lost. A driver thread
// and a device thread play ping-pong, each sleeping on a condition that only the other's
// notification sets. A lost one shows as a time-out.
struct bell {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    bool set;
};

static struct bell kick_bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
static struct bell interrupt_bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

static void ring_bell(struct bell *b)
{
    pthread_mutex_lock(&b->lock);
    b->set = true;
    pthread_cond_signal(&b->rung);
    pthread_mutex_unlock(&b->lock);
}

static bool wait_bell(struct bell *b)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 60;
    int rc = 0;
    pthread_mutex_lock(&b->lock);
    while (!b->set && rc == 0)
        rc = pthread_cond_timedwait(&b->rung, &b->lock, &deadline);
    b->set = false;
    pthread_mutex_unlock(&b->lock);
    return rc == 0;
}

static void race_interrupt(struct virtqueue *q)
{
    ring_bell(&interrupt_bell);
}

static const struct virtqueue_owner race_owner = {.interrupt = race_interrupt, .broken = on_broken};
enum { RACE_ROUNDS = 100000 };

static void *race_device(void *opaque)
{
    unsigned served = 0;
    static struct virtqueue_chain c;
    while (served < RACE_ROUNDS) {
        virtqueue_kicks_off(&queue);
        int rc = virtqueue_pop(&queue, &c);
        if (rc > 0) {
            virtqueue_push(&queue, &c, 0);
            virtqueue_publish(&queue);
            served++;
        } else if (rc < 0) {
            return "broken";
        } else if (!virtqueue_kicks_on(&queue) && !wait_bell(&kick_bell)) {
            return "a kick was lost";
        }
    }
    return NULL;
}

static uint16_t *ring_u16(uint64_t gpa)
{
    return (uint16_t *)(void *)(ram + gpa);
}

START_TEST(no_notification_is_lost)
{
    pthread_t device;
    queue.event_index = _i;
    queue.owner = &race_owner;
    put(0, DATA, 8, 0, 0);
    ck_assert_int_eq(pthread_create(&device, NULL, race_device, NULL), 0);
    uint16_t added = 0, taken = 0;
    unsigned done = 0;
    while (done < RACE_ROUNDS) {
        // Up to a few in flight, so that either side finds work at varying moments.
        unsigned total = done + (uint16_t)(added - taken);
        if ((uint16_t)(added - taken) < 1 + done % 3 && total < RACE_ROUNDS) {
            *ring_u16(AVAILABLE + 4 + 2u * (added % SIZE)) = 0;
            added++;
            __atomic_store_n(ring_u16(AVAILABLE + 2), added, __ATOMIC_RELEASE);
            atomic_thread_fence(memory_order_seq_cst);
            bool wanted;
            if (queue.event_index)
                wanted = __atomic_load_n(ring_u16(USED + 4 + 8 * SIZE), __ATOMIC_RELAXED) ==
                         (uint16_t)(added - 1);
            else
                wanted = !(__atomic_load_n(ring_u16(USED), __ATOMIC_RELAXED) & 1);
            if (wanted)
                ring_bell(&kick_bell);
            continue;
        }
        __atomic_store_n(ring_u16(AVAILABLE + 4 + 2 * SIZE), taken, __ATOMIC_RELAXED);
        if (!queue.event_index)
            __atomic_store_n(ring_u16(AVAILABLE), 0, __ATOMIC_RELAXED);
        atomic_thread_fence(memory_order_seq_cst);
        uint16_t used = __atomic_load_n(ring_u16(USED + 2), __ATOMIC_ACQUIRE);
        if (used == taken) {
            ck_assert_msg(wait_bell(&interrupt_bell), "an interrupt was lost after %u", done);
            continue;
        }
        if (!queue.event_index)
            __atomic_store_n(ring_u16(AVAILABLE), 1, __ATOMIC_RELAXED);
        done += (uint16_t)(used - taken);
        taken = used;
    }
    void *result;
    pthread_join(device, &result);
    ck_assert_msg(!result, "%s", (char *)result);
    ck_assert_uint_eq(queue.requests, RACE_ROUNDS);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *s = suite_create("virtio queue");
    TCase *t = tcase_create("rings");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 300);
    tcase_add_test(t, chain_is_collected);
    tcase_add_test(t, zero_length_segments_are_nothing);
    tcase_add_test(t, indirect_table_behind_direct_descriptor);
    tcase_add_test(t, longest_chains_are_taken);
    tcase_add_loop_test(t, hostile_ring_breaks_the_queue_and_nothing_else, 0,
                        sizeof(hostile) / sizeof(hostile[0]));
    tcase_add_test(t, sum_of_lengths_does_not_wrap);
    tcase_add_test(t, more_in_flight_than_descriptors);
    tcase_add_test(t, rings_are_checked_when_enabled);
    tcase_add_test(t, rings_lie_in_one_region);
    tcase_add_test(t, interrupts_follow_the_flag);
    tcase_add_test(t, interrupts_follow_the_event_index);
    tcase_add_test(t, indexes_wrap_around);
    tcase_add_test(t, kicks_are_asked_for_and_left_out);
    tcase_add_test(t, writes_are_marked);
    tcase_add_test(t, chains_are_copied_across_segments);
    tcase_add_test(t, rewound_chains_come_again);
    tcase_add_test(t, saved_queue_goes_on);
    tcase_add_loop_test(t, hostile_state_is_refused, 0,
                        sizeof(hostile_states) / sizeof(hostile_states[0]));
    tcase_add_loop_test(t, no_notification_is_lost, 0, 2);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(make_suite());
}
