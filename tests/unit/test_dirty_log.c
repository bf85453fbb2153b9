// The dirty log over a KVM that is a fake, with and without manual clearing: a page that was
// written is found once, and not lost when a step fails.
#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/unit/run_suite.h"
#include "vmm/dirty_log.h"

enum { LOW = 130, HIGH = 64 }; // pages; the first isn't a whole number of words

static uint64_t kvm_dirty[2][3]; // by slot
static bool manual, logging[2];
static int fail_clear; // slot + 1

int ioctl(int fd, unsigned long request, ...)
{
    ck_assert_uint_eq(request, KVM_CHECK_EXTENSION);
    return manual ? KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET : 0;
}

int kvm_set_slot(const struct kvm *kvm, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva,
                 uint64_t size)
{
    bool on = flags & KVM_MEM_LOG_DIRTY_PAGES;
    // "Initially set": everything counts as written until it is cleared for the first time.
    if (on && !logging[slot])
        memset(kvm_dirty[slot], manual ? 0xff : 0, size / GUEST_PAGE_SIZE / 8);
    logging[slot] = on;
    return 0;
}

static void clear_bits(const struct kvm_clear_dirty_log *clear)
{
    const uint64_t *bits = clear->dirty_bitmap;
    ck_assert_uint_eq(clear->first_page % 64, 0);
    for (uint32_t i = 0; i < clear->num_pages; i++)
        if (bits[i / 64] >> i % 64 & 1)
            kvm_dirty[clear->slot][(clear->first_page + i) / 64] &=
                ~(UINT64_C(1) << (clear->first_page + i) % 64);
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *argument)
{
    if (request == KVM_ENABLE_CAP)
        return 0;
    if (request == KVM_CLEAR_DIRTY_LOG) {
        const struct kvm_clear_dirty_log *clear = argument;
        ck_assert(manual);
        if (fail_clear == (int)clear->slot + 1)
            return -EFAULT;
        clear_bits(clear);
        return 0;
    }
    ck_assert_uint_eq(request, KVM_GET_DIRTY_LOG);
    const struct kvm_dirty_log *get = argument;
    size_t size = get->slot == 0 ? 24 : 8;
    memcpy(get->dirty_bitmap, kvm_dirty[get->slot], size);
    if (!manual)
        memset(kvm_dirty[get->slot], 0, size);
    return 0;
}

static struct guest_memory memory;
static struct dirty_log dirty;
static struct page_bitmap pages;
static const struct kvm kvm = {.fd = -1};

static void start(bool with_manual)
{
    static uint8_t low[LOW * GUEST_PAGE_SIZE] __attribute__((aligned(GUEST_PAGE_SIZE)));
    static uint8_t high[HIGH * GUEST_PAGE_SIZE] __attribute__((aligned(GUEST_PAGE_SIZE)));
    struct error err = {0};
    manual = with_manual;
    fail_clear = 0;
    guest_memory_init(&memory);
    ck_assert_int_eq(guest_memory_add(&memory, 0, low, sizeof(low)), 0);
    ck_assert_int_eq(guest_memory_add(&memory, UINT64_C(1) << 32, high, sizeof(high)), 0);
    ck_assert_int_eq(page_bitmap_init(&pages, &memory), 0);
    ck_assert_int_eq(dirty_log_start(&dirty, &kvm, &memory, &err), 0);
    ck_assert(logging[0] && logging[1]);
}

static void take(void)
{
    struct error err = {0};
    ck_assert_int_eq(dirty_log_take(&dirty, &pages, &err), 0);
}

static void stop(void)
{
    dirty_log_stop(&dirty);
    ck_assert(!logging[0] && !logging[1]);
    dirty_log_stop(&dirty); // a second time does nothing
    page_bitmap_free(&pages);
    guest_memory_destroy(&memory);
}

static bool has(unsigned region, unsigned page)
{
    return pages.words[region][page / 64] >> page % 64 & 1;
}

START_TEST(test_both_logs)
{
    start(_i);
    take(); // what counts as written at the start
    page_bitmap_clear(&pages);
    kvm_dirty[0][2] |= 2; // page 129, by a vCPU
    kvm_dirty[1][0] |= 1;
    guest_memory_written(&memory, 5 * GUEST_PAGE_SIZE + 4095, 2); // by ferry, over a boundary
    take();
    ck_assert_uint_eq(page_bitmap_count(&pages), 4);
    ck_assert(has(0, 129) && has(1, 0) && has(0, 5) && has(0, 6));
    page_bitmap_clear(&pages);
    take();
    ck_assert_uint_eq(page_bitmap_count(&pages), 0);
    stop();
}
END_TEST

// What was taken and not sent stays with the caller, and later takes add to it.
START_TEST(test_takes_add_up)
{
    start(_i);
    take();
    page_bitmap_clear(&pages);
    kvm_dirty[0][0] |= 1;
    take();
    kvm_dirty[0][0] |= 4;
    take();
    ck_assert_uint_eq(page_bitmap_count(&pages), 2);
    stop();
}
END_TEST

START_TEST(test_failed_clear_loses_nothing)
{
    struct error err = {0};
    start(true);
    take();
    page_bitmap_clear(&pages);
    kvm_dirty[0][0] |= 1;
    kvm_dirty[1][0] |= 2;
    guest_memory_written(&memory, 9 * GUEST_PAGE_SIZE, 1);
    fail_clear = 1;
    ck_assert_int_lt(dirty_log_take(&dirty, &pages, &err), 0);
    ck_assert(err.message[0] != 0);
    fail_clear = 0;
    take();
    ck_assert(has(0, 0) && has(1, 1) && has(0, 9));
    ck_assert_uint_eq(page_bitmap_count(&pages), 3);
    stop();
}
END_TEST

START_TEST(test_fill)
{
    start(false);
    page_bitmap_fill(&pages, &memory);
    ck_assert_uint_eq(page_bitmap_count(&pages), LOW + HIGH);
    ck_assert_uint_eq(pages.words[0][2], 3);
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dirty_log");
    TCase *tc = tcase_create("dirty_log");
    tcase_add_loop_test(tc, test_both_logs, 0, 2);
    tcase_add_loop_test(tc, test_takes_add_up, 0, 2);
    tcase_add_test(tc, test_failed_clear_loses_nothing);
    tcase_add_test(tc, test_fill);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
