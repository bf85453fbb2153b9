// The room base/: byte cursor, units, ids, guest memory, declared state.
#include <check.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/failure_point.h"
#include "base/guest_memory.h"
#include "base/ids.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "base/state.h"
#include "base/units.h"
#include "tests/unit/run_suite.h"

START_TEST(bytes_round_trip)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_u8(&w, 0x12);
    byte_writer_u16(&w, 0x3456);
    byte_writer_u32(&w, 0x789abcde);
    byte_writer_u64(&w, UINT64_C(0x0123456789abcdef));
    byte_writer_string(&w, "ferry");
    ck_assert(!w.failed);
    ck_assert_uint_eq(w.data[1], 0x56); // little-endian
    struct byte_reader r;
    byte_reader_init(&r, w.data, w.length);
    char text[6];
    ck_assert_uint_eq(byte_reader_u8(&r), 0x12);
    ck_assert_uint_eq(byte_reader_u16(&r), 0x3456);
    ck_assert_uint_eq(byte_reader_u32(&r), 0x789abcde);
    ck_assert_uint_eq(byte_reader_u64(&r), UINT64_C(0x0123456789abcdef));
    ck_assert(byte_reader_string(&r, text, sizeof(text)));
    ck_assert_str_eq(text, "ferry");
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    byte_writer_free(&w);
}
END_TEST

START_TEST(bytes_reader_refuses_every_truncation)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_u32(&w, 1);
    byte_writer_blob(&w, "abcdefgh", 8);
    for (size_t length = 0; length < w.length; length++) {
        uint8_t *exact = malloc(length ? length : 1); // a sanitizer sees a read past its end
        memcpy(exact, w.data, length);
        struct byte_reader r;
        byte_reader_init(&r, exact, length);
        size_t blob;
        byte_reader_u32(&r);
        ck_assert_ptr_null(byte_reader_blob(&r, 100, &blob));
        ck_assert(r.failed);
        ck_assert_uint_eq(byte_reader_left(&r), 0);
        ck_assert_uint_eq(byte_reader_u64(&r), 0);
        free(exact);
    }
    byte_writer_free(&w);
}
END_TEST

START_TEST(bytes_reader_keeps_limits)
{
    struct byte_writer w;
    struct byte_reader r;
    size_t length;
    char text[4];
    byte_writer_init(&w);
    byte_writer_u32(&w, UINT32_MAX);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_ptr_null(byte_reader_blob(&r, SIZE_MAX, &length));
    byte_writer_reset(&w);
    byte_writer_string(&w, "long");
    byte_reader_init(&r, w.data, w.length);
    ck_assert(!byte_reader_string(&r, text, sizeof(text)));
    byte_writer_reset(&w);
    byte_writer_blob(&w, "a\0b", 3);
    byte_reader_init(&r, w.data, w.length);
    ck_assert(!byte_reader_string(&r, text, sizeof(text)));
    byte_writer_free(&w);
    uint8_t small[3];
    byte_writer_init_fixed(&w, small, sizeof(small));
    byte_writer_u16(&w, 1);
    byte_writer_u16(&w, 2);
    ck_assert(w.failed);
    ck_assert_uint_eq(w.length, 2);
}
END_TEST

START_TEST(units_sizes)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"512M", 0, UINT64_C(512) << 20},
        {"4G", 0, UINT64_C(4) << 30},
        {"4GiB", 0, UINT64_C(4) << 30},
        {"1k", 0, 1024},
        {"10B", 0, 10},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"16777216T", -ERANGE, 0}, // 2^64
        {"17179869184G", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"G", -EINVAL, 0},
        {"1GG", -EINVAL, 0},
        {" 1", -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 0;
        ck_assert_msg(units_parse_size(cases[i].text, &bytes) == cases[i].rc, "%s", cases[i].text);
        if (cases[i].rc == 0)
            ck_assert_uint_eq(bytes, cases[i].bytes);
    }
}
END_TEST

START_TEST(units_others)
{
    uint64_t v;
    uint32_t share;
    char text[32];
    ck_assert_int_eq(units_parse_duration("10ms", &v), 0);
    ck_assert_uint_eq(v, 10000000);
    ck_assert_int_eq(units_parse_duration("2h", &v), 0);
    ck_assert_int_eq(units_parse_duration("10", &v), -EINVAL);
    ck_assert_int_eq(units_parse_duration("18446744073709551615s", &v), -ERANGE);
    ck_assert_int_eq(units_parse_share("150%", &share), 0);
    ck_assert_uint_eq(share, 1500);
    ck_assert_int_eq(units_parse_share("0.25", &share), 0);
    ck_assert_uint_eq(share, 250);
    ck_assert_int_eq(units_parse_share("12.5%", &share), 0);
    ck_assert_uint_eq(share, 125);
    ck_assert_int_eq(units_parse_share("x", &share), -EINVAL);
    ck_assert_int_eq(units_parse_number("65", 64, &v), -ERANGE);
    ck_assert_str_eq(units_format_size(UINT64_C(1536) << 20, text, sizeof(text)), "1.5 GiB");
    ck_assert_str_eq(units_format_size(17, text, sizeof(text)), "17 B");
}
END_TEST

START_TEST(ids_uuid_and_names)
{
    struct uuid a, b;
    char text[UUID_TEXT_SIZE];
    ck_assert_int_eq(uuid_generate_random(&a), 0);
    ck_assert_int_eq(uuid_parse(uuid_format(&a, text), &b), 0);
    ck_assert(uuid_equal(&a, &b));
    ck_assert_int_eq(text[14], '4');
    ck_assert_int_eq(uuid_parse("00000000-0000-0000-0000-00000000000", &b), -EINVAL);
    ck_assert_int_eq(uuid_parse("00000000-0000-0000-0000-0000000000000", &b), -EINVAL);
    ck_assert_int_eq(uuid_parse("0000000000000-0000-0000-0000-00000000", &b), -EINVAL);
    ck_assert(name_is_valid("web-1.example_x"));
    ck_assert(!name_is_valid(""));
    ck_assert(!name_is_valid(".hidden"));
    ck_assert(!name_is_valid("../x"));
    ck_assert(!name_is_valid("Upper"));
    ck_assert(!name_is_valid("a23456789012345678901234567890123456789012"));
}
END_TEST

// Two regions with a hole: [0, 4 pages) and [8, 10 pages).
struct two_regions {
    struct guest_memory mem;
    uint8_t *host;
};

static void two_regions_init(struct two_regions *t)
{
    t->host =
        mmap(NULL, 6 * GUEST_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    guest_memory_init(&t->mem);
    // In the wrong order, to see them sorted.
    ck_assert_int_eq(guest_memory_add(&t->mem, 8 * GUEST_PAGE_SIZE, t->host + 4 * GUEST_PAGE_SIZE,
                                      2 * GUEST_PAGE_SIZE),
                     0);
    ck_assert_int_eq(guest_memory_add(&t->mem, 0, t->host, 4 * GUEST_PAGE_SIZE), 0);
}

static void two_regions_free(struct two_regions *t)
{
    guest_memory_destroy(&t->mem);
    munmap(t->host, 6 * GUEST_PAGE_SIZE);
}

START_TEST(memory_slice_finds_ram_only)
{
    static const struct {
        uint64_t gpa, length;
        int64_t offset; // -1: not found
    } cases[] = {
        {0, 0x4000, 0},
        {0, 0x4001, -1},
        {0x3fff, 1, 0x3fff},
        {0x3fff, 2, -1}, // crosses the end
        {0x4000, 1, -1}, // the hole
        {0x4000, 0, -1},
        {0x7fff, 2, -1}, // begins in the hole
        {0x8000, 0x2000, 0x4000},
        {0x9fff, 1, 0x5fff},
        {0xa000, 0, -1},
        {0x8000, UINT64_MAX, -1},
        {UINT64_MAX, 1, -1},
        {UINT64_MAX, UINT64_MAX, -1}, // the sum wraps
        {0x10, UINT64_MAX - 0xf, -1}, // the sum wraps to 0
    };
    struct two_regions t;
    two_regions_init(&t);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        void *p = guest_memory_slice(&t.mem, cases[i].gpa, cases[i].length);
        ck_assert_ptr_eq(p, cases[i].offset < 0 ? NULL : t.host + cases[i].offset);
    }
    two_regions_free(&t);
}
END_TEST

START_TEST(memory_add_refuses)
{
    struct two_regions t;
    two_regions_init(&t);
    ck_assert_int_eq(guest_memory_add(&t.mem, 0x3000, t.host, 0x1000), -EINVAL);
    ck_assert_int_eq(guest_memory_add(&t.mem, 0x7000, t.host, 0x2000), -EINVAL);
    ck_assert_int_eq(guest_memory_add(&t.mem, 0x4800, t.host, 0x1000), -EINVAL);
    ck_assert_int_eq(guest_memory_add(&t.mem, 0x4000, t.host, 0), -EINVAL);
    ck_assert_int_eq(guest_memory_add(&t.mem, UINT64_MAX - 0xfff, t.host, 0x2000), -EINVAL);
    ck_assert_uint_eq(guest_memory_size(&t.mem), 6 * GUEST_PAGE_SIZE);
    two_regions_free(&t);
}
END_TEST

START_TEST(memory_log_has_exactly_the_written_pages)
{
    struct two_regions t;
    uint64_t bitmap = 0;
    two_regions_init(&t);
    guest_memory_written(&t.mem, 0, 0x4000); // before the log: forgotten
    guest_memory_log_start(&t.mem);
    guest_memory_slice(&t.mem, 0x2000, 16);  // looking never marks
    guest_memory_written(&t.mem, 0x0fff, 2); // two pages
    guest_memory_written(&t.mem, 0x3000, 0);
    guest_memory_written(&t.mem, 0x4000, 0x1000); // the hole
    guest_memory_log_take(&t.mem, 0, &bitmap);
    ck_assert_uint_eq(bitmap, 3);
    guest_memory_log_take(&t.mem, 0, &bitmap); // ORs, and was cleared
    ck_assert_uint_eq(bitmap, 3);
    bitmap = 0;
    guest_memory_log_take(&t.mem, 0, &bitmap);
    ck_assert_uint_eq(bitmap, 0);
    ck_assert_int_eq(guest_memory_write(&t.mem, 0x9ffe, "ab", 2), 0);
    ck_assert_int_eq(guest_memory_write(&t.mem, 0x9fff, "ab", 2), -EFAULT);
    guest_memory_log_take(&t.mem, 1, &bitmap);
    ck_assert_uint_eq(bitmap, 2);
    guest_memory_log_stop(&t.mem);
    guest_memory_written(&t.mem, 0, 1);
    bitmap = 0;
    guest_memory_log_take(&t.mem, 0, &bitmap);
    ck_assert_uint_eq(bitmap, 0);
    two_regions_free(&t);
}
END_TEST

struct sample {
    uint8_t small[3];
    uint16_t medium;
    uint32_t large;
    uint64_t huge;
    bool flag;
};

static const struct state_field sample_fields[] = {
    STATE_ARRAY(STATE_U8, struct sample, small),  STATE_FIELD(STATE_U16, struct sample, medium),
    STATE_FIELD(STATE_U32, struct sample, large), STATE_FIELD(STATE_U64, struct sample, huge),
    STATE_FIELD(STATE_BOOL, struct sample, flag), {0},
};
static const struct state_section sample_section = {"sample", 1, sample_fields};

// The same with a field that old readers may skip.
struct sample2 {
    struct sample old;
    uint32_t extra;
};
START_TEST(state_round_trip_and_every_truncation)
{
    struct sample in = {{1, 2, 3}, 4, 5, 6, true}, out = {0};
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    byte_writer_init(&w);
    state_section_save(&sample_section, &in, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&sample_section, &out, &r, &err), 0);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    ck_assert_uint_eq(out.small[2], 3);
    ck_assert_uint_eq(out.huge, 6);
    ck_assert(out.flag);
    for (size_t length = 0; length < w.length; length++) {
        byte_reader_init(&r, w.data, length);
        ck_assert_int_lt(state_section_load(&sample_section, &out, &r, &err), 0);
        ck_assert_int_ne(err.message[0], 0);
    }
    byte_writer_free(&w);
}
END_TEST

START_TEST(state_versions)
{
    static const struct state_field some[] = {STATE_ARRAY(STATE_U8, struct sample, small),
                                              STATE_FIELD(STATE_U16, struct sample, medium),
                                              {0}};
    static const struct state_field with_optional[] = {
        {"small", STATE_U8, offsetof(struct sample2, old.small), 3, 1, false},
        {"medium", STATE_U16, offsetof(struct sample2, old.medium), 1, 1, false},
        {"extra", STATE_U32, offsetof(struct sample2, extra), 1, 1, true},
        {0},
    };
    static const struct state_section old = {"s", 1, some}, added = {"s", 1, with_optional};
    static const struct state_section newer = {"s", 2, with_optional};
    struct sample a = {{7, 8, 9}, 10, 0, 0, false};
    struct sample2 b = {.extra = 99};
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    byte_writer_init(&w);
    // A reader with one optional field more takes a stream without it, and keeps its own value.
    state_section_save(&old, &a, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&added, &b, &r, &err), 0);
    ck_assert_uint_eq(b.extra, 99);
    ck_assert_uint_eq(b.old.medium, 10);
    // And the other way round: the optional field is skipped.
    byte_writer_reset(&w);
    state_section_save(&added, &b, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&old, &a, &r, &err), 0);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    // A newer version, an unknown field and another name are refused and named.
    byte_writer_reset(&w);
    state_section_save(&newer, &b, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&old, &a, &r, &err), -ENOTSUP);
    byte_writer_reset(&w);
    state_section_save(&sample_section, &a, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&old, &a, &r, &err), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.message, "sample"));
    static const struct state_section renamed = {"sample", 1, some};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&renamed, &a, &r, &err), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.message, "large"));
    // A field that this version must have isn't there.
    byte_writer_reset(&w);
    state_section_save(&renamed, &a, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(state_section_load(&sample_section, &a, &r, &err), -EBADMSG);
    byte_writer_free(&w);
}
END_TEST

static void add_one(void *opaque)
{
    ++*(int *)opaque;
}

struct call_from_inside {
    struct io_thread *thread;
    int count;
};

static void call_again(void *opaque)
{
    struct call_from_inside *c = opaque;
    io_thread_call(c->thread, add_one, &c->count); // on the thread itself: a plain call
}

START_TEST(io_thread_calls)
{
    struct call_from_inside c = {0};
    ck_assert_int_eq(io_thread_start(&c.thread, "test"), 0);
    for (int i = 0; i < 1000; i++)
        io_thread_call(c.thread, add_one, &c.count);
    ck_assert_int_eq(c.count, 1000);
    io_thread_call(c.thread, call_again, &c);
    ck_assert_int_eq(c.count, 1001);
    io_thread_stop(c.thread);
}
END_TEST

START_TEST(error_sentences)
{
    struct error err = {0};
    ck_assert_int_eq(error_set_errno(&err, ENOENT, "kernel '%s'", "x"), -ENOENT);
    ck_assert_int_eq(error_prefix(&err, "run"), -ENOENT);
    ck_assert_str_eq(err.message, "run: kernel 'x': No such file or directory");
    ck_assert_int_eq(error_set(NULL, EIO, "nobody listens"), -EIO);
}
END_TEST

static void write_point(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

// Its file may come and go while the process runs, and counts once.
START_TEST(failure_point_of_a_file)
{
    char folder[] = "/tmp/ferry-base.XXXXXX", path[64], variable[80];
    ck_assert(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/point", folder);
    snprintf(variable, sizeof(variable), "@%s", path);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    ck_assert_int_eq(failure_point("here"), FAILURE_NONE);
    write_point(path, "here:cut\n");
    ck_assert_int_eq(failure_point("her"), FAILURE_NONE);
    ck_assert_int_eq(failure_point("hereafter"), FAILURE_NONE);
    ck_assert_int_eq(failure_point("here"), FAILURE_CUT);
    ck_assert_int_eq(failure_point("here"), FAILURE_NONE);
    ck_assert_int_ne(access(path, F_OK), 0);
    write_point(path, "there");
    pid_t child = fork();
    if (child == 0) {
        failure_point("there");
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert_int_ne(access(path, F_OK), 0);
    unsetenv("FERRY_FAILURE_POINT");
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(log_limit_counts_by_the_minute)
{
    struct log_limit limit = {0};
    uint64_t now = 5 * NSEC_PER_SEC;
    for (unsigned minute = 0; minute < 3; minute++, now += 60 * NSEC_PER_SEC) {
        bool last = false;
        for (unsigned i = 0; i < LOG_LINES_A_MINUTE; i++) {
            ck_assert(!last && log_limit_allows(&limit, now + i, &last));
        }
        ck_assert(last);
        ck_assert(!log_limit_allows(&limit, now + 60 * NSEC_PER_SEC - 1, &last) && !last);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *tests = tcase_create("base");
    tcase_add_test(tests, bytes_round_trip);
    tcase_add_test(tests, bytes_reader_refuses_every_truncation);
    tcase_add_test(tests, bytes_reader_keeps_limits);
    tcase_add_test(tests, units_sizes);
    tcase_add_test(tests, units_others);
    tcase_add_test(tests, ids_uuid_and_names);
    tcase_add_test(tests, memory_slice_finds_ram_only);
    tcase_add_test(tests, memory_add_refuses);
    tcase_add_test(tests, memory_log_has_exactly_the_written_pages);
    tcase_add_test(tests, state_round_trip_and_every_truncation);
    tcase_add_test(tests, state_versions);
    tcase_add_test(tests, io_thread_calls);
    tcase_add_test(tests, error_sentences);
    tcase_add_test(tests, failure_point_of_a_file);
    tcase_add_test(tests, log_limit_counts_by_the_minute);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
