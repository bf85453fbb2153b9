// Each side of a migration against a peer that is scripted: questions, hostile bytes, older
// versions.
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/migrate/fake_sides.h"
#include "tests/unit/run_suite.h"

// ---- a scripted source against the real target ----

struct script {
    struct target_side target;
    struct channel control, data;
    uint8_t id[MIGRATE_ID_SIZE];
    struct channel_address data_address;
};

static uint16_t hello_minor; // version of the scripted source

static void say_hello(struct channel *channel, const struct channel_address *address,
                      const uint8_t *id, int role)
{
    struct error err = {0};
    struct migrate_hello hello = {
        .major = MIGRATE_VERSION_MAJOR, .minor = hello_minor, .role = (uint8_t)role};
    struct byte_writer w;
    memcpy(hello.id, id, sizeof(hello.id));
    byte_writer_init(&w);
    migrate_hello_encode(&hello, &w);
    ck_assert_int_eq(channel_connect(channel, -1, address, 10 * NSEC_PER_SEC, NULL, &err), 0);
    ck_assert_int_eq(channel_send_frame(channel, MIGRATE_HELLO, &w), 0);
    byte_writer_free(&w);
}

static uint32_t next_frame(struct channel *channel, struct byte_writer *frame)
{
    uint32_t type;
    return channel_receive_frame(channel, 1 << 20, &type, frame) < 0 ? 0 : type;
}

static void send_bytes(struct channel *channel, uint32_t type, const void *bytes, size_t length)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_bytes(&w, bytes, length);
    channel_send_frame(channel, type, &w);
    byte_writer_free(&w);
}

static void send_number(struct channel *channel, uint32_t type, uint32_t number)
{
    uint8_t bytes[4];
    bytes_put_u32(bytes, number);
    send_bytes(channel, type, bytes, sizeof(bytes));
}

static void describe(struct byte_writer *w)
{
    struct migrate_description *d = calloc(1, sizeof(*d));
    struct error err = {0};
    machine_config_init(&d->config);
    snprintf(d->config.name, sizeof(d->config.name), "fake");
    d->config.kernel = strdup("/fake/kernel");
    d->config.memory = 64 << 20;
    d->image_size[0] = 6;
    d->streams = 1;
    ck_assert_int_eq(migrate_description_encode(d, w, &err), 0);
    machine_config_free(&d->config);
    free(d);
}

// Up to a first round, without pages.
static void begin_script(struct script *s)
{
    struct byte_writer w;
    byte_writer_init(&w);
    memset(s->id, 7, sizeof(s->id));
    start_target(&s->target);
    s->data_address = s->target.params.listen;
    say_hello(&s->control, &s->data_address, s->id, MIGRATE_ROLE_CONTROL);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_WELCOME);
    byte_writer_reset(&w);
    describe(&w);
    channel_send_frame(&s->control, MIGRATE_DESCRIBE, &w);
    send_bytes(&s->control, MIGRATE_IMAGE, "\0\0\0\0\0\0\0\0\0kernel", 15);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_READY);
    say_hello(&s->data, &s->data_address, s->id, MIGRATE_ROLE_DATA);
    send_number(&s->data, MIGRATE_ROUND, 1);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_ROUND_DONE);
    byte_writer_free(&w);
}

static void send_state(struct script *s, uint32_t round, uint64_t magic)
{
    uint8_t state[17] = {0};
    bytes_put_u32(state, round);
    state[4] = 1;
    bytes_put_u64(state + 5, magic);
    send_bytes(&s->control, MIGRATE_STATE, state, sizeof(state));
}

static void load_script(struct script *s)
{
    struct byte_writer w;
    byte_writer_init(&w);
    begin_script(s);
    send_state(s, 1, STATE_MAGIC);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_LOADED);
    byte_writer_free(&w);
}

static void end_script(struct script *s)
{
    channel_close(&s->control);
    channel_close(&s->data);
    end_target(&s->target);
}

static uint32_t ask(struct script *s, const uint8_t *id)
{
    struct channel query;
    struct byte_writer w;
    byte_writer_init(&w);
    say_hello(&query, &s->data_address, id, MIGRATE_ROLE_QUERY);
    uint32_t answer = next_frame(&query, &w);
    channel_close(&query);
    byte_writer_free(&w);
    return answer;
}

// Who was told NOT_STARTED goes on by itself: a COMMIT that comes late must not start the machine.
START_TEST(test_not_started_is_final)
{
    struct script s;
    reset_evidence();
    load_script(&s);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_NOT_STARTED);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_NOT_STARTED);
    usleep(50000);
    ck_assert(!atomic_load(&s.target.started));
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    end_script(&s);
}
END_TEST

// The target was stopped for a while: it finds COMMIT and a question at once. Whatever it answers,
// it does.
START_TEST(test_commit_and_question_together)
{
    struct script s;
    struct channel query;
    struct byte_writer w;
    byte_writer_init(&w);
    reset_evidence();
    begin_script(&s);
    atomic_store(&loading_stands, true);
    send_state(&s, 1, STATE_MAGIC);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    say_hello(&query, &s.data_address, s.id, MIGRATE_ROLE_QUERY);
    atomic_store(&loading_stands, false);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_LOADED);
    uint32_t answer = next_frame(&query, &w);
    ck_assert(answer == MIGRATE_STARTED || answer == MIGRATE_NOT_STARTED);
    usleep(100000);
    ck_assert_int_eq(s.target.machine->state == MACHINE_RUNNING, answer == MIGRATE_STARTED);
    ck_assert_uint_eq(next_frame(&s.control, &w), answer);
    channel_close(&query);
    byte_writer_free(&w);
    end_script(&s);
}
END_TEST

// A disk that somebody else holds keeps the machine from starting, and the answer waits for it.
START_TEST(test_start_waits_for_disk)
{
    struct script s;
    reset_evidence();
    load_script(&s);
    struct machine *other = (struct machine *)&s, *nobody = NULL;
    ck_assert(atomic_compare_exchange_strong(&disk_owner, &nobody, other));
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    usleep(50000);
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    atomic_store(&disk_owner, NULL);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_STARTED);
    ck_assert_int_eq(s.target.machine->state, MACHINE_RUNNING);
    end_script(&s);
}
END_TEST

// "I don't know it" isn't "it doesn't run": another process may have listened there before.
START_TEST(test_stranger_is_no_answer)
{
    struct script s;
    uint8_t other[MIGRATE_ID_SIZE] = {1};
    reset_evidence();
    load_script(&s);
    ck_assert_uint_eq(ask(&s, other), MIGRATE_REFUSE);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    struct byte_writer w;
    byte_writer_init(&w);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_STARTED);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_STARTED);
    byte_writer_free(&w);
    end_script(&s);
}
END_TEST

// Connections that say nothing, or a part of a greeting, keep nobody waiting for long.
START_TEST(test_silent_connections)
{
    struct script s;
    struct channel silent, slow;
    struct error err = {0};
    reset_evidence();
    load_script(&s);
    ck_assert_int_eq(channel_connect(&silent, -1, &s.data_address, NSEC_PER_SEC, NULL, &err), 0);
    ck_assert_int_eq(channel_connect(&slow, -1, &s.data_address, NSEC_PER_SEC, NULL, &err), 0);
    struct iovec iov = {(void *)"xx", 2};
    channel_send(&slow, &iov, 1);
    usleep(10000);
    uint64_t start = clock_monotonic_ns();
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    struct byte_writer w;
    byte_writer_init(&w);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_STARTED);
    ck_assert_uint_lt(clock_monotonic_ns() - start, 9 * NSEC_PER_SEC);
    byte_writer_free(&w);
    channel_close(&silent);
    channel_close(&slow);
    end_script(&s);
}
END_TEST

// A source of an older minor version, which announces nothing, one of this and one of a later: each
// hands its machine over, with its memory.
START_TEST(test_source_of_other_version)
{
    struct script s;
    struct byte_writer w;
    uint8_t run[8 + GUEST_PAGE_SIZE] = {0}, range[16] = {0};
    byte_writer_init(&w);
    reset_evidence();
    hello_minor = (uint16_t[]){0, MIGRATE_VERSION_MINOR, 700}[_i];
    begin_script(&s);
    if (hello_minor >= MIGRATE_MINOR_COMING) {
        bytes_put_u64(range + 8, PAGES / 2);
        send_bytes(&s.data, MIGRATE_COMING, range, sizeof(range));
    }
    bytes_put_u64(run, 3 * GUEST_PAGE_SIZE);
    run[8] = 42;
    send_bytes(&s.data, MIGRATE_PAGES, run, sizeof(run));
    send_number(&s.data, MIGRATE_ROUND, 2);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_ROUND_DONE);
    send_state(&s, 2, STATE_MAGIC);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_LOADED);
    // Before the guest walks on.
    ck_assert_uint_eq(s.target.machine->ram[3 * GUEST_PAGE_SIZE], 42);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_STARTED);
    byte_writer_free(&w);
    end_script(&s);
    hello_minor = 0;
}
END_TEST

// What a hostile source can send where RAM or state is due: the attempt ends, with words, and
// nothing runs.
static void hostile_pages(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {0};
    bytes_put_u64(run, (uint64_t)PAGES * GUEST_PAGE_SIZE);
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_wrap(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {0};
    bytes_put_u64(run, -(uint64_t)GUEST_PAGE_SIZE);
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_misaligned(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {1};
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_length(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE / 2] = {0};
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_zero(struct script *s)
{
    uint8_t run[16] = {0};
    bytes_put_u64(run + 8, UINT64_MAX);
    send_bytes(&s->data, MIGRATE_ZERO, run, sizeof(run));
}
static void hostile_coming(struct script *s)
{
    uint8_t range[16] = {0};
    bytes_put_u64(range + 8, PAGES + 1);
    send_bytes(&s->data, MIGRATE_COMING, range, sizeof(range));
}
static void hostile_short_coming(struct script *s)
{
    send_bytes(&s->data, MIGRATE_COMING, "12345678", 8);
}
static void hostile_round(struct script *s)
{
    send_number(&s->data, MIGRATE_ROUND, 3);
}
static void hostile_type(struct script *s)
{
    send_bytes(&s->data, MIGRATE_STATE, "x", 1);
}
static void hostile_early_state(struct script *s)
{
    send_state(s, 1000, STATE_MAGIC);
}
static void hostile_state(struct script *s)
{
    send_state(s, 1, 1);
}
static void hostile_short_state(struct script *s)
{
    send_bytes(&s->control, MIGRATE_STATE, "abc", 3);
}
static void hostile_huge_state(struct script *s)
{
    uint8_t header[8];
    bytes_put_u32(header, MIGRATE_STATE);
    bytes_put_u32(header + 4, UINT32_MAX);
    struct iovec iov = {header, sizeof(header)};
    channel_send(&s->control, &iov, 1);
}
static void hostile_commit(struct script *s)
{
    channel_send_frame(&s->control, MIGRATE_COMMIT, NULL);
}
static void hostile_abort(struct script *s)
{
    send_bytes(&s->control, MIGRATE_ABORT, "\xff\xff\xff\xff", 4);
}
static void hostile_close_data(struct script *s)
{
    channel_shutdown(&s->data);
}
static void hostile_close_control(struct script *s)
{
    channel_shutdown(&s->control);
}
static const struct {
    void (*act)(struct script *);
    const char *said; // of it; "" for any sentence
} hostilities[] = {
    {hostile_pages, ""},
    {hostile_wrap, ""},
    {hostile_misaligned, ""},
    {hostile_length, ""},
    {hostile_coming, ""},
    {hostile_short_coming, ""},
    {hostile_zero, ""},
    {hostile_round, ""},
    {hostile_type, ""},
    {hostile_early_state, ""},
    {hostile_state, ""},
    {hostile_short_state, ""},
    {hostile_huge_state, "talking to the source: it sent a message longer than any"},
    {hostile_commit, ""},
    {hostile_abort, ""},
    {hostile_close_data, "receiving RAM from the source: it closed the connection"},
    {hostile_close_control, "talking to the source: it closed the connection"},
};

START_TEST(test_hostile_source)
{
    struct script s;
    reset_evidence();
    begin_script(&s);
    hostilities[_i].act(&s);
    for (int i = 0; i < 20000 && !atomic_load(&s.target.failed); i++)
        usleep(1000);
    ck_assert(atomic_load(&s.target.failed));
    ck_assert(s.target.err.message[0] != 0);
    ck_assert_msg(strstr(s.target.err.message, hostilities[_i].said) != NULL, "%s",
                  s.target.err.message);
    ck_assert(!atomic_load(&s.target.started));
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    end_script(&s);
}
END_TEST

// A description cut off at every length, and greetings that are none: the target only says no.
START_TEST(test_hostile_greeting)
{
    struct byte_writer whole, w;
    struct target_side target;
    struct channel channel;
    uint8_t id[MIGRATE_ID_SIZE] = {0};
    byte_writer_init(&whole);
    byte_writer_init(&w);
    describe(&whole);
    for (size_t length = 0; length < whole.length; length += 41) {
        start_target(&target);
        say_hello(&channel, &target.params.listen, id, MIGRATE_ROLE_CONTROL);
        ck_assert_uint_eq(next_frame(&channel, &w), MIGRATE_WELCOME);
        send_bytes(&channel, MIGRATE_DESCRIBE, whole.data, length);
        ck_assert_uint_eq(next_frame(&channel, &w), MIGRATE_REFUSE);
        channel_close(&channel);
        end_target(&target);
        ck_assert_int_lt(target.accepted, 0);
        close(target.listen_fd);
    }
    byte_writer_free(&whole);
    byte_writer_free(&w);
}
END_TEST

// ---- a scripted target against the real source ----

enum target_trick {
    TRICK_REFUSE,         // instead of READY
    TRICK_GARBAGE_READY,  // a READY without a port
    TRICK_WRONG_ROUND,    // confirms another round
    TRICK_EARLY_STARTED,  // STARTED where ROUND_DONE is due
    TRICK_HUGE_FRAME,     // a length of 4 GiB
    TRICK_CLOSE_AT_STATE, // after STATE
    TRICK_REFUSE_STATE,   // REFUSE for LOADED
    TRICK_LATE_REFUSAL,   // NOT_STARTED right behind LOADED: before COMMIT
    TRICK_NOT_STARTED,    // for COMMIT
    TRICKS,
};

struct trickster {
    pthread_t thread;
    int listen_fd;
    enum target_trick trick;
    bool committed;
};

static void say(struct channel *channel, uint32_t type, const char *text)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_string(&w, text);
    channel_send_frame(channel, type, &w);
    byte_writer_free(&w);
}

static void *drain_main(void *opaque)
{
    struct channel *channel = opaque;
    uint8_t bytes[4096];
    while (recv(channel->fd, bytes, sizeof(bytes), 0) > 0)
        continue;
    return NULL;
}

static void play(struct trickster *t, struct channel *control, struct channel *data)
{
    struct byte_writer frame;
    pthread_t drain;
    uint8_t port[2];
    byte_writer_init(&frame);
    next_frame(control, &frame); // HELLO
    send_bytes(control, MIGRATE_WELCOME, "\1\0\0\0", 4);
    next_frame(control, &frame); // DESCRIBE
    next_frame(control, &frame); // IMAGE
    struct sockaddr_in name;
    socklen_t size = sizeof(name);
    getsockname(t->listen_fd, (struct sockaddr *)&name, &size);
    bytes_put_u16(port, ntohs(name.sin_port));
    if (t->trick == TRICK_REFUSE)
        say(control, MIGRATE_REFUSE, "no\x1b[2J");
    else
        send_bytes(control, MIGRATE_READY, port, t->trick == TRICK_GARBAGE_READY ? 1 : 2);
    if (t->trick <= TRICK_GARBAGE_READY)
        goto out;
    channel_adopt(data, accept(t->listen_fd, NULL, NULL));
    pthread_create(&drain, NULL, drain_main, data);
    if (t->trick == TRICK_EARLY_STARTED)
        channel_send_frame(control, MIGRATE_STARTED, NULL);
    else if (t->trick == TRICK_HUGE_FRAME)
        send_bytes(control, MIGRATE_ROUND_DONE, &t, 0),
            hostile_huge_state(&(struct script){.control = *control});
    else
        send_number(control, MIGRATE_ROUND_DONE, t->trick == TRICK_WRONG_ROUND ? 7 : 1);
    if (t->trick > TRICK_HUGE_FRAME) {
        send_number(control, MIGRATE_ROUND_DONE,
                    2);              // with a second of downtime allowed one round is enough
        next_frame(control, &frame); // STATE
        if (t->trick == TRICK_REFUSE_STATE)
            say(control, MIGRATE_REFUSE, "bad state");
        if (t->trick >= TRICK_LATE_REFUSAL)
            channel_send_frame(control, MIGRATE_LOADED, NULL);
        if (t->trick == TRICK_LATE_REFUSAL)
            say(control, MIGRATE_NOT_STARTED, "changed my mind");
        if (t->trick != TRICK_CLOSE_AT_STATE)
            t->committed = next_frame(control, &frame) == MIGRATE_COMMIT;
        if (t->trick == TRICK_NOT_STARTED)
            say(control, MIGRATE_NOT_STARTED, "no such luck");
    }
    channel_shutdown(control);
    channel_shutdown(data);
    pthread_join(drain, NULL);
out:
    byte_writer_free(&frame);
}

static void *trickster_main(void *opaque)
{
    struct trickster *t = opaque;
    struct channel control, data = {.fd = -1};
    channel_adopt(&control, accept(t->listen_fd, NULL, NULL));
    play(t, &control, &data);
    channel_close(&data);
    channel_close(&control);
    return NULL;
}

START_TEST(test_hostile_target)
{
    struct trickster t = {.trick = (enum target_trick)_i};
    struct channel_address address;
    struct source_side source;
    reset_evidence();
    listen_here(&address, &t.listen_fd);
    pthread_create(&t.thread, NULL, trickster_main, &t);
    run_source(&source, &address, 1);
    pthread_join(t.thread, NULL);
    check_source_goes_on(&source);
    for (const char *p = source.err.message; *p; p++)
        ck_assert_msg((unsigned char)*p >= ' ', "control characters of a peer: %s",
                      source.err.message);
    if (t.trick != TRICK_NOT_STARTED && t.trick != TRICK_LATE_REFUSAL)
        ck_assert(!t.committed);
    end_source(&source);
    close(t.listen_fd);
}
END_TEST

// ---- targets of other minor versions ----

struct recorder {
    pthread_t thread;
    int listen_fd;
    uint16_t minor;
    unsigned pages, announced;
};

// One round on the data connection, confirmed.
static void record_round(struct recorder *r, struct channel *control, struct channel *data)
{
    struct byte_writer frame;
    uint32_t type = 0;
    byte_writer_init(&frame);
    while (type != MIGRATE_ROUND) {
        ck_assert_int_eq(channel_receive_frame(data, 2 << 20, &type, &frame), 0);
        r->pages += type == MIGRATE_PAGES;
        r->announced += type == MIGRATE_COMING;
        ck_assert(type == MIGRATE_PAGES || type == MIGRATE_ZERO || type == MIGRATE_COMING ||
                  type == MIGRATE_ROUND);
    }
    send_number(control, MIGRATE_ROUND_DONE, bytes_get_u32(frame.data));
    byte_writer_free(&frame);
}

static void *recorder_main(void *opaque)
{
    struct recorder *r = opaque;
    struct channel control, data;
    struct byte_writer frame;
    struct sockaddr_in name;
    socklen_t size = sizeof(name);
    uint8_t welcome[4], port[2];
    byte_writer_init(&frame);
    channel_adopt(&control, accept(r->listen_fd, NULL, NULL));
    ck_assert_uint_eq(next_frame(&control, &frame), MIGRATE_HELLO);
    bytes_put_u16(welcome, MIGRATE_VERSION_MAJOR);
    bytes_put_u16(welcome + 2, r->minor);
    send_bytes(&control, MIGRATE_WELCOME, welcome, sizeof(welcome));
    ck_assert_uint_eq(next_frame(&control, &frame), MIGRATE_DESCRIBE);
    ck_assert_uint_eq(next_frame(&control, &frame), MIGRATE_IMAGE);
    getsockname(r->listen_fd, (struct sockaddr *)&name, &size);
    bytes_put_u16(port, ntohs(name.sin_port));
    send_bytes(&control, MIGRATE_READY, port, sizeof(port));
    channel_adopt(&data, accept(r->listen_fd, NULL, NULL));
    ck_assert_uint_eq(next_frame(&data, &frame), MIGRATE_HELLO);
    // With a second of downtime allowed one round is enough.
    record_round(r, &control, &data);
    record_round(r, &control, &data);
    ck_assert_uint_eq(next_frame(&control, &frame), MIGRATE_STATE);
    channel_send_frame(&control, MIGRATE_LOADED, NULL);
    ck_assert_uint_eq(next_frame(&control, &frame), MIGRATE_COMMIT);
    channel_send_frame(&control, MIGRATE_STARTED, NULL);
    channel_close(&data);
    channel_close(&control);
    byte_writer_free(&frame);
    return NULL;
}

// A target of an older minor version gets no frame that it doesn't know.
START_TEST(test_target_of_other_version)
{
    struct recorder r = {.minor = (uint16_t[]){0, MIGRATE_VERSION_MINOR, 700}[_i]};
    struct channel_address address;
    struct source_side source;
    reset_evidence();
    no_zero_pages = true;
    listen_here(&address, &r.listen_fd);
    pthread_create(&r.thread, NULL, recorder_main, &r);
    run_source(&source, &address, 1);
    pthread_join(r.thread, NULL);
    ck_assert_msg(source.result == 0, "%s", source.err.message);
    ck_assert(source.machine->moved);
    ck_assert_uint_gt(r.pages, 0);
    ck_assert(r.minor < MIGRATE_MINOR_COMING ? r.announced == 0 : r.announced > 0);
    end_source(&source);
    close(r.listen_fd);
    no_zero_pages = false;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("migrate-peers");
    TCase *tc = tcase_create("migrate-peers");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_not_started_is_final);
    tcase_add_test(tc, test_commit_and_question_together);
    tcase_add_test(tc, test_start_waits_for_disk);
    tcase_add_test(tc, test_stranger_is_no_answer);
    tcase_add_test(tc, test_silent_connections);
    tcase_add_loop_test(tc, test_hostile_source, 0, sizeof(hostilities) / sizeof(hostilities[0]));
    tcase_add_test(tc, test_hostile_greeting);
    tcase_add_loop_test(tc, test_hostile_target, 0, TRICKS);
    tcase_add_loop_test(tc, test_source_of_other_version, 0, 3);
    tcase_add_loop_test(tc, test_target_of_other_version, 0, 3);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
