// The state of a machine as bytes: what was saved loads, also what version 1 saved (tests/golden);
// what was damaged or is newer is refused with words; a field that one side doesn't know may be
// optional.
//
// FERRY_GOLDEN=write in the environment writes golden files that lack. Files that are there are
// never changed.
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "tests/unit/run_suite.h"
#include "vmm/irqchip.h"
#include "vmm/machine_clock.h"
#include "vmm/vcpu_state.h"

enum { XSAVE_SIZE = 4096, MSR_COUNT = 3, OBJECT_SIZE = 16384 };

// ---- one codec a row ----

struct codec {
    const char *name;
    void (*fill)(void *object); // with values that a load accepts
    void (*save)(const void *object, struct byte_writer *w);
    int (*load)(void *object, struct byte_reader *r, struct error *err);
    void (*free)(void *object);
};

// Bytes that are the same everywhere and for ever.
static void fill_bytes(void *out, size_t length, uint32_t seed)
{
    uint8_t *p = out;
    for (size_t i = 0; i < length; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (uint8_t)(seed >> 24);
    }
}

static void vcpu_fill(void *object)
{
    struct vcpu_state *s = object;
    fill_bytes(&s->regs, sizeof(s->regs), 1);
    fill_bytes(&s->sregs, sizeof(s->sregs), 2);
    s->xcrs.nr_xcrs = 1;
    s->xcrs.xcrs[0].value = 7;
    fill_bytes(&s->lapic, sizeof(s->lapic), 3);
    fill_bytes(&s->events, sizeof(s->events), 4);
    fill_bytes(&s->debug, sizeof(s->debug), 5);
    s->mp.mp_state = KVM_MP_STATE_HALTED;
    s->xsave = calloc(1, XSAVE_SIZE);
    fill_bytes(s->xsave, XSAVE_SIZE, 6);
    s->msrs = calloc(1, sizeof(*s->msrs) + MSR_COUNT * sizeof(s->msrs->entries[0]));
    s->msrs->nmsrs = MSR_COUNT;
    for (uint32_t i = 0; i < MSR_COUNT; i++)
        s->msrs->entries[i] =
            (struct kvm_msr_entry){.index = 0xc0000080 + i, .data = i * UINT64_C(0x123456789)};
}
static void vcpu_save(const void *object, struct byte_writer *w)
{
    vcpu_state_save(object, XSAVE_SIZE, w);
}
static int vcpu_load(void *object, struct byte_reader *r, struct error *err)
{
    return vcpu_state_load(object, XSAVE_SIZE, r, err);
}
static void vcpu_free(void *object)
{
    vcpu_state_free(object);
}

static void irqchip_fill(void *object)
{
    struct irqchip_state *s = object;
    fill_bytes(s, sizeof(*s), 7);
    for (uint32_t i = 0; i < 3; i++)
        s->chips[i].chip_id = i;
}
static void irqchip_save(const void *object, struct byte_writer *w)
{
    irqchip_state_save(object, w);
}
static int irqchip_load(void *object, struct byte_reader *r, struct error *err)
{
    return irqchip_state_load(object, r, err);
}
static void nothing_free(void *object)
{
}

static void clock_fill(void *object)
{
    struct machine_clock *c = object;
    *c = (struct machine_clock){.kvmclock_ns = 123456789012,
                                .has_realtime = true,
                                .has_offsets = true,
                                .realtime_ns = UINT64_C(1700000000000000000),
                                .tsc_khz = 2500000,
                                .vcpu_count = 2};
    for (uint64_t i = 0; i < MACHINE_CPUS_LIMIT; i++) {
        c->tsc[i] = i * 1000003;
        c->tsc_offset[i] = -i;
    }
}
static void clock_save(const void *object, struct byte_writer *w)
{
    machine_clock_save(object, w);
}
static int clock_load(void *object, struct byte_reader *r, struct error *err)
{
    return machine_clock_load(object, r, err);
}

static const struct codec codecs[] = {
    {"vcpu", vcpu_fill, vcpu_save, vcpu_load, vcpu_free},
    {"irqchip", irqchip_fill, irqchip_save, irqchip_load, nothing_free},
    {"clock", clock_fill, clock_save, clock_load, nothing_free},
};
enum { CODECS = sizeof(codecs) / sizeof(codecs[0]) };

static void *save_filled(const struct codec *codec, struct byte_writer *w)
{
    void *object = calloc(1, OBJECT_SIZE);
    byte_writer_init(w);
    codec->fill(object);
    codec->save(object, w);
    ck_assert(!w->failed);
    return object;
}

static int load_bytes(const struct codec *codec, void *object, const void *bytes, size_t length,
                      struct error *err)
{
    struct byte_reader r;
    byte_reader_init(&r, bytes, length);
    *err = (struct error){0};
    return codec->load(object, &r, err);
}

START_TEST(test_round_trip)
{
    const struct codec *codec = &codecs[_i];
    struct byte_writer w, again;
    struct error err;
    void *object = save_filled(codec, &w), *loaded = calloc(1, OBJECT_SIZE);
    ck_assert_msg(load_bytes(codec, loaded, w.data, w.length, &err) == 0, "%s", err.message);
    byte_writer_init(&again);
    codec->save(loaded, &again);
    ck_assert_uint_eq(w.length, again.length);
    ck_assert_mem_eq(w.data, again.data, w.length);
    codec->free(object);
    codec->free(loaded);
    free(object);
    free(loaded);
    byte_writer_free(&w);
    byte_writer_free(&again);
}
END_TEST

START_TEST(test_truncated)
{
    const struct codec *codec = &codecs[_i];
    struct byte_writer w;
    struct error err;
    void *object = save_filled(codec, &w), *loaded = calloc(1, OBJECT_SIZE);
    for (size_t length = 0; length < w.length; length++) {
        // A copy of just that length, so that a sanitizer sees a read past it.
        uint8_t *copy = malloc(length ? length : 1);
        memcpy(copy, w.data, length);
        ck_assert_msg(load_bytes(codec, loaded, copy, length, &err) < 0, "%zu of %zu bytes", length,
                      w.length);
        ck_assert(err.message[0] != 0);
        codec->free(loaded);
        free(copy);
    }
    codec->free(object);
    free(object);
    free(loaded);
    byte_writer_free(&w);
}
END_TEST

// Every byte in turn is damaged: a load says why it failed, or took another value.
START_TEST(test_damaged)
{
    const struct codec *codec = &codecs[_i];
    struct byte_writer w;
    struct error err;
    void *object = save_filled(codec, &w), *loaded = calloc(1, OBJECT_SIZE);
    for (size_t at = 0; at < w.length; at++) {
        uint8_t kept = w.data[at];
        static const uint8_t flips[] = {0x01, 0x80, 0xff};
        for (unsigned i = 0; i < sizeof(flips); i++) {
            w.data[at] = kept ^ flips[i];
            if (load_bytes(codec, loaded, w.data, w.length, &err) < 0)
                ck_assert(err.message[0] != 0);
            codec->free(loaded);
        }
        w.data[at] = kept;
    }
    codec->free(object);
    free(object);
    free(loaded);
    byte_writer_free(&w);
}
END_TEST

// A section begins with its name as a string, then its version.
START_TEST(test_newer_version)
{
    const struct codec *codec = &codecs[_i];
    struct byte_writer w;
    struct error err;
    void *object = save_filled(codec, &w), *loaded = calloc(1, OBJECT_SIZE);
    bytes_put_u16(w.data + 4 + bytes_get_u32(w.data), 2);
    ck_assert_int_eq(load_bytes(codec, loaded, w.data, w.length, &err), -ENOTSUP);
    ck_assert_msg(strstr(err.message, codec->name) && strstr(err.message, "version 2"), "%s",
                  err.message);
    codec->free(object);
    codec->free(loaded);
    free(object);
    free(loaded);
    byte_writer_free(&w);
}
END_TEST

// What version 1 of the format wrote loads for ever, and means the same.
START_TEST(test_golden)
{
    const struct codec *codec = &codecs[_i];
    struct byte_writer w, again;
    struct error err;
    char path[64];
    static uint8_t bytes[1 << 20];
    void *object = save_filled(codec, &w), *loaded = calloc(1, OBJECT_SIZE);
    snprintf(path, sizeof(path), "tests/golden/%s.1", codec->name);
    const char *mode = getenv("FERRY_GOLDEN");
    FILE *file = fopen(path, "rb");
    if (!file && mode && strcmp(mode, "write") == 0) {
        file = fopen(path, "wb");
        ck_assert_ptr_nonnull(file);
        ck_assert_uint_eq(fwrite(w.data, 1, w.length, file), w.length);
        fclose(file);
        file = fopen(path, "rb");
    }
    ck_assert_msg(file != NULL, "%s isn't there", path);
    size_t length = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    ck_assert_msg(load_bytes(codec, loaded, bytes, length, &err) == 0, "%s: %s", path, err.message);
    // Saved by this version it is what the same values are: nothing was lost on the way.
    byte_writer_init(&again);
    codec->save(loaded, &again);
    ck_assert_uint_eq(w.length, again.length);
    ck_assert_mem_eq(w.data, again.data, w.length);
    codec->free(object);
    codec->free(loaded);
    free(object);
    free(loaded);
    byte_writer_free(&w);
    byte_writer_free(&again);
}
END_TEST

// ---- the tables themselves ----

struct thing {
    uint32_t number;
    uint16_t list[3];
    bool flag;
    uint64_t later;
};

#define THING(kind, member) STATE_FIELD(kind, struct thing, member)
static const struct state_field old_fields[] = {THING(STATE_U32, number),
                                                STATE_ARRAY(STATE_U16, struct thing, list),
                                                THING(STATE_BOOL, flag),
                                                {0}};
static const struct state_field optional_fields[] = {THING(STATE_U32, number),
                                                     STATE_ARRAY(STATE_U16, struct thing, list),
                                                     {.name = "later",
                                                      .type = STATE_U64,
                                                      .offset = offsetof(struct thing, later),
                                                      .count = 1,
                                                      .since = 1,
                                                      .optional = true},
                                                     THING(STATE_BOOL, flag),
                                                     {0}};
static const struct state_field newer_fields[] = {THING(STATE_U32, number),
                                                  STATE_ARRAY(STATE_U16, struct thing, list),
                                                  THING(STATE_BOOL, flag),
                                                  {.name = "later",
                                                   .type = STATE_U64,
                                                   .offset = offsetof(struct thing, later),
                                                   .count = 1,
                                                   .since = 2},
                                                  {0}};
static const struct state_section old_section = {"thing", 1, old_fields};
static const struct state_section optional_section = {"thing", 1, optional_fields};
static const struct state_section newer_section = {"thing", 2, newer_fields};

static int exchange(const struct state_section *from, const struct state_section *to,
                    struct thing *out, struct error *err)
{
    const struct thing thing = {.number = 7, .list = {1, 2, 3}, .flag = true, .later = 99};
    struct byte_writer w;
    struct byte_reader r;
    byte_writer_init(&w);
    state_section_save(from, &thing, &w);
    byte_reader_init(&r, w.data, w.length);
    *err = (struct error){0};
    int rc = state_section_load(to, out, &r, err);
    if (rc == 0) {
        ck_assert_uint_eq(byte_reader_left(&r), 0);
        ck_assert_uint_eq(out->number, 7);
        ck_assert_uint_eq(out->list[2], 3);
        ck_assert(out->flag);
    }
    byte_writer_free(&w);
    return rc;
}

START_TEST(test_exchange)
{
    struct error err;
    struct thing thing = {.later = 5};
    // A build with an added optional field and one without it take each other's state.
    ck_assert_int_eq(exchange(&optional_section, &old_section, &thing, &err), 0);
    ck_assert_uint_eq(thing.later, 5);
    ck_assert_int_eq(exchange(&old_section, &optional_section, &thing, &err), 0);
    ck_assert_uint_eq(thing.later, 5);
    ck_assert_int_eq(exchange(&optional_section, &optional_section, &thing, &err), 0);
    ck_assert_uint_eq(thing.later, 99);
    // A newer build takes an older state; an older build names what it can't take.
    thing.later = 5;
    ck_assert_int_eq(exchange(&old_section, &newer_section, &thing, &err), 0);
    ck_assert_uint_eq(thing.later, 5);
    ck_assert_int_eq(exchange(&newer_section, &old_section, &thing, &err), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.message, "thing"));
}
END_TEST

static int load_thing(struct byte_writer *w, struct error *err)
{
    struct byte_reader r;
    struct thing thing;
    *err = (struct error){0};
    byte_reader_init(&r, w->data, w->length);
    return state_section_load(&old_section, &thing, &r, err);
}

static void put_field(struct byte_writer *w, const char *name, uint8_t type, uint8_t flags,
                      uint32_t count, size_t bytes)
{
    byte_writer_string(w, name);
    byte_writer_u8(w, type);
    byte_writer_u8(w, flags);
    byte_writer_u32(w, count);
    memset(byte_writer_reserve(w, bytes), 1, bytes);
}

static void begin(struct byte_writer *w, const char *name, uint16_t fields)
{
    byte_writer_reset(w);
    byte_writer_string(w, name);
    byte_writer_u16(w, 1);
    byte_writer_u16(w, fields);
}

START_TEST(test_hostile_section)
{
    struct byte_writer w;
    struct error err;
    byte_writer_init(&w);
    begin(&w, "another", 0);
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.message, "another"));
    begin(&w, "thing", 0);
    ck_assert_int_eq(load_thing(&w, &err), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.message, "number"));
    begin(&w, "thing", 2);
    put_field(&w, "number", STATE_U32, 0, 1, 4);
    put_field(&w, "number", STATE_U32, 0, 1, 4);
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    begin(&w, "thing", 1);
    put_field(&w, "number", STATE_U64, 0, 1, 8);
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    begin(&w, "thing", 1);
    put_field(&w, "list", STATE_U16, 0, 4, 8); // would write past the array
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    begin(&w, "thing", 1);
    put_field(&w, "stranger", STATE_U32, 0, 1, 4);
    ck_assert_int_eq(load_thing(&w, &err), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.message, "stranger"));
    begin(&w, "thing", 1);
    put_field(&w, "stranger", STATE_U64, 1, UINT32_MAX,
              8); // optional, and longer than what is there
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    begin(&w, "thing", 1);
    put_field(&w, "number", 6, 0, 1, 4);
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    begin(&w, "thing", 1);
    put_field(&w, "number", 0, 1, 1, 4);
    ck_assert_int_eq(load_thing(&w, &err), -EPROTO);
    byte_writer_free(&w);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state");
    TCase *tc = tcase_create("state");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_round_trip, 0, CODECS);
    tcase_add_loop_test(tc, test_truncated, 0, CODECS);
    tcase_add_loop_test(tc, test_damaged, 0, CODECS);
    tcase_add_loop_test(tc, test_newer_version, 0, CODECS);
    tcase_add_loop_test(tc, test_golden, 0, CODECS);
    tcase_add_test(tc, test_exchange);
    tcase_add_test(tc, test_hostile_section);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
