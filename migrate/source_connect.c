// A migration's source: its connections, and what it tells the target before the first page.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/description.h"
#include "migrate/source_internal.h"
#include "vmm/machine_migration.h"

// What a failed exchange with the target means: its own words where it sent some.
int source_exchange_error(struct migration_source *s, int code, const char *what, struct error *err)
{
    char doing[80];
    int rc = source_interruption(s, err);
    snprintf(doing, sizeof(doing), "%s the target", what);
    return rc < 0 ? rc : channel_exchange_error(code, doing, err);
}

int source_send(struct migration_source *s, uint32_t type, const struct byte_writer *w,
                struct error *err)
{
    int rc = channel_send_frame(&s->control, type, w);
    return rc < 0 ? source_exchange_error(s, rc, "talking to", err) : 0;
}

// Takes a reason's text out of a REFUSE, ABORT or NOT_STARTED.
void source_read_reason(const struct byte_writer *frame, char *out, size_t size)
{
    struct byte_reader r;
    byte_reader_init(&r, frame->data, frame->length);
    if (!byte_reader_string(&r, out, size))
        snprintf(out, size, "no reason given");
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = '?'; // it goes to a terminal
}

// Receives the frame `wanted`; anything else is an error, a REFUSE one with the target's reason.
int source_expect(struct migration_source *s, uint32_t wanted, struct byte_writer *frame,
                  struct error *err)
{
    uint32_t type;
    int rc = channel_receive_frame(&s->control, MIGRATE_TEXT_LIMIT + 4, &type, frame);
    if (rc < 0)
        return source_exchange_error(s, rc, "waiting for", err);
    if (type == wanted)
        return 0;
    char reason[MIGRATE_TEXT_LIMIT];
    if (type == MIGRATE_REFUSE || type == MIGRATE_ABORT || type == MIGRATE_NOT_STARTED) {
        source_read_reason(frame, reason, sizeof(reason));
        return error_set(err, ECONNREFUSED, "the target refused: %s", reason);
    }
    return error_set(err, EPROTO, "the target sent %s where %s was due", migrate_frame_name(type),
                     migrate_frame_name(wanted));
}

static int secure(struct migration_source *s, struct channel *channel, uint64_t limit_ns,
                  struct error *err)
{
    const char *name = s->params.tls_name[0] ? s->params.tls_name : NULL;
    channel_set_deadline(channel, limit_ns);
    int rc = channel_secure(channel, s->params.tls, false, name, err);
    if (rc == 0 && s->params.tls_peer[0])
        rc = channel_check_peer(channel, s->params.tls_peer, err);
    channel_set_deadline(channel, 0);
    channel_set_limit(channel, limit_ns);
    return rc < 0 ? error_prefix(err, "connecting to '%s'", s->params.target.text) : 0;
}

// The socket for a connection, to be taken over; -1 when the source makes its own; or -errno. There
// is one for all questions: the next one begins when the last has failed.
static int socket_for(struct migration_source *s, enum migrate_role role, unsigned index)
{
    int *given = &s->params.sockets[role == MIGRATE_ROLE_DATA ? MIGRATE_SOCKETS_BESIDE_DATA + index
                                                              : MIGRATE_SOCKET_CONTROL];
    if (s->params.socket_count == 0)
        return -1;
    if (role == MIGRATE_ROLE_QUERY) {
        int fd = s->params.sockets[MIGRATE_SOCKET_QUESTION];
        int rc = channel_renew_socket(fd);
        fd = rc < 0 ? rc : fcntl(fd, F_DUPFD_CLOEXEC, 0);
        return fd < 0 && rc == 0 ? -errno : fd;
    }
    int fd = *given;
    *given = -1;
    return fd;
}

int source_open(struct migration_source *s, struct channel *channel,
                const struct channel_address *address, enum migrate_role role, unsigned index,
                struct error *err)
{
    struct channel fresh;
    bool query = role == MIGRATE_ROLE_QUERY;
    int fd = socket_for(s, role, index);
    if (fd < -1)
        return error_set_errno(err, -fd, "preparing a socket for '%s'", address->text);
    int rc = channel_connect(&fresh, fd, address, query ? QUESTION_LIMIT : SILENCE_LIMIT,
                             query ? NULL : &s->cancelled, err);
    if (rc == -ECANCELED)
        return source_interruption(s, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock); // a cancel must find it, or be seen here
    *channel = fresh;
    pthread_mutex_unlock(&s->lock);
    if (s->params.tls)
        rc = secure(s, channel, query ? QUESTION_LIMIT : SILENCE_LIMIT, err);
    int interrupted = query ? 0 : source_interruption(s, err);
    if (rc < 0 || interrupted < 0)
        return interrupted < 0 ? interrupted : rc;
    struct migrate_hello hello = {
        .major = MIGRATE_VERSION_MAJOR,
        .minor = MIGRATE_VERSION_MINOR,
        .role = (uint8_t)role,
        .index = (uint16_t)index,
    };
    memcpy(hello.id, s->id, sizeof(hello.id));
    snprintf(hello.token, sizeof(hello.token), "%s", s->params.token);
    struct byte_writer w;
    byte_writer_init(&w);
    migrate_hello_encode(&hello, &w);
    rc = channel_send_frame(channel, MIGRATE_HELLO, &w);
    byte_writer_free(&w);
    return rc < 0 ? channel_exchange_error(rc, "talking to the target", err) : 0;
}

struct description_call {
    struct migration_source *source;
    struct migrate_description *description;
    struct error *err;
    int result;
};

// On main: what the target must know of the machine.
static void describe_on_main(void *opaque)
{
    struct description_call *call = opaque;
    struct machine *m = call->source->machine;
    struct migrate_description *d = call->description;
    json_t *json = machine_config_to_json(machine_config(m));
    call->result = json ? machine_config_init(&d->config) : -ENOMEM;
    if (call->result == 0)
        call->result = machine_config_from_json(&d->config, json, call->err);
    json_decref(json);
    if (call->result < 0)
        return;
    // An address made from the name must not change with it.
    for (unsigned i = 0; i < d->config.net_count; i++)
        machine_net_mac(machine_config(m), i, d->config.nets[i].mac);
    d->cpuid = *machine_cpuid(m);
    d->streams = call->source->params.streams;
    for (unsigned i = 0; i < 2; i++) {
        struct stat st;
        if (machine_image_fd(m, i) >= 0 && fstat(machine_image_fd(m, i), &st) == 0)
            d->image_size[i] = (uint64_t)st.st_size;
    }
}

static int send_image(struct migration_source *s, unsigned which, uint64_t size, struct error *err)
{
    struct byte_writer w;
    byte_writer_init(&w);
    int rc = 0;
    for (uint64_t done = 0; done < size && rc == 0;) {
        uint64_t left = size - done;
        size_t n = left < MIGRATE_IMAGE_CHUNK ? (size_t)left : MIGRATE_IMAGE_CHUNK;
        byte_writer_reset(&w);
        byte_writer_u8(&w, (uint8_t)which);
        byte_writer_u64(&w, done);
        uint8_t *room = byte_writer_reserve(&w, n);
        ssize_t got = room ? pread(machine_image_fd(s->machine, which), room, n, (off_t)done) : -1;
        if (got != (ssize_t)n)
            rc = error_set_errno(err, got < 0 ? errno : EIO, "reading the machine's %s again",
                                 which == 0 ? "kernel" : "initrd");
        else
            rc = source_send(s, MIGRATE_IMAGE, &w, err);
        done += n;
    }
    byte_writer_free(&w);
    return rc;
}

static int send_description(struct migration_source *s, struct error *err)
{
    struct migrate_description *d = calloc(1, sizeof(*d));
    struct description_call call = {.source = s, .description = d, .err = err};
    struct byte_writer w;
    byte_writer_init(&w);
    if (!d)
        return error_set_errno(err, ENOMEM, "describing the machine");
    loop_call(s->main, describe_on_main, &call);
    int rc = call.result;
    if (rc < 0 && !err->code)
        error_set_errno(err, -rc, "describing the machine");
    if (rc == 0)
        rc = migrate_description_encode(d, &w, err);
    if (rc == 0)
        rc = source_send(s, MIGRATE_DESCRIBE, &w, err);
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        rc = send_image(s, i, d->image_size[i], err);
    byte_writer_free(&w);
    machine_config_free(&d->config);
    free(d);
    return rc;
}

// READY names the port for the data connections: a target that stays for others has one of its own
// for each.
static int connect_data(struct migration_source *s, const struct byte_writer *ready,
                        struct error *err)
{
    struct byte_reader r;
    byte_reader_init(&r, ready->data, ready->length);
    uint16_t port = byte_reader_u16(&r);
    if (r.failed)
        return error_set(err, EPROTO, "the target's READY is cut off");
    channel_address_set_port(&s->params.target, port);
    for (unsigned i = 0; i < s->params.streams; i++) {
        int rc = source_open(s, &s->data[i], &s->params.target, MIGRATE_ROLE_DATA, i, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int source_prepare(struct migration_source *s, struct error *err)
{
    struct byte_writer frame;
    byte_writer_init(&frame);
    source_set_phase(s, PHASE_CONNECTING);
    source_pass_failure_point(s, "source-connecting");
    int rc = source_open(s, &s->control, &s->params.target, MIGRATE_ROLE_CONTROL, 0, err);
    if (rc == 0) {
        rc = source_expect(s, MIGRATE_WELCOME, &frame, err);
        // With TLS 1.3 a source takes its handshake for done before the target has looked at its
        // certificate.
        if (s->params.tls && (rc == -EKEYREJECTED || rc == -ECONNRESET || rc == -EPIPE))
            rc = error_set(err, -rc,
                           "TLS: the target closed the connection: does it accept this host's "
                           "certificate? (its log says why)");
    }
    if (rc == 0) {
        struct byte_reader r;
        byte_reader_init(&r, frame.data, frame.length);
        byte_reader_u16(&r); // the major one: the target has refused another
        s->target_minor = byte_reader_u16(&r);
        source_set_phase(s, PHASE_PREPARING);
        source_pass_failure_point(s, "source-preparing");
        rc = send_description(s, err);
        // The target may have refused before it read all: its reason is worth more than a broken
        // pipe.
        if (rc == 0 || rc == -EPIPE || rc == -ECONNRESET)
            rc = source_expect(s, MIGRATE_READY, &frame, err);
    }
    if (rc == 0) {
        source_pass_failure_point(s, "source-ready");
        rc = connect_data(s, &frame, err);
    }
    byte_writer_free(&frame);
    return rc;
}
