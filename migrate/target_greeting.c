#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "migrate/target_internal.h"

#define FRAME_LIMIT (60 * NSEC_PER_SEC) // for a whole frame of what comes before READY

// Doesn't tell by the time it takes how much of it is right.
static bool same_token(const char *wanted, const char *shown)
{
    size_t length = strlen(wanted);
    unsigned char differs = 0;
    if (strlen(shown) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        differs |= (unsigned char)(wanted[i] ^ shown[i]);
    return !differs;
}

bool target_greet(struct channel *channel, const struct migration_target_params *params,
                  uint64_t limit_ns, struct migrate_hello *hello)
{
    struct byte_writer frame;
    struct error err = {0};
    uint32_t type;
    byte_writer_init(&frame);
    channel_set_limit(channel, limit_ns);
    channel_set_deadline(channel, limit_ns);
    const char *wrong = NULL;
    char versions[MIGRATE_TEXT_LIMIT];
    bool readable = !params->tls || channel_secure(channel, params->tls, true, NULL, &err) == 0;
    if (!readable)
        wrong = ""; // not one of ours: no answer
    else if (params->tls && params->tls_peer && channel_check_peer(channel, params->tls_peer, &err))
        wrong = err.message; // told in words, as TLS's alerts have none for it
    else if (channel_receive_frame(channel, MIGRATE_TEXT_LIMIT, &type, &frame) < 0 ||
             type != MIGRATE_HELLO || !migrate_hello_decode(hello, frame.data, frame.length))
        wrong = "";
    else if (hello->major != MIGRATE_VERSION_MAJOR) {
        snprintf(versions, sizeof(versions),
                 "the source speaks version %u.%u of the migration protocol, this target %u.%u: "
                 "bring both to the same version of ferry",
                 hello->major, hello->minor, MIGRATE_VERSION_MAJOR, MIGRATE_VERSION_MINOR);
        wrong = versions;
    } else if (params->token[0] && !same_token(params->token, hello->token))
        wrong = "the token is wrong (see what `ferry receive` printed)";
    if (err.code)
        log_warning("receive: a connection was turned away: %s", err.message);
    if (wrong && wrong[0])
        target_send_text(channel, MIGRATE_REFUSE, wrong);
    if (wrong)
        channel_close(channel);
    channel_set_deadline(channel, 0);
    byte_writer_free(&frame);
    return !wrong;
}

static int make_images(struct migration_target *t, struct error *err)
{
    for (unsigned i = 0; i < 2; i++) {
        if (t->description.image_size[i] == 0)
            continue;
        t->image_fds[i] = memfd_create(i == 0 ? "kernel" : "initrd", MFD_CLOEXEC);
        if (t->image_fds[i] < 0 ||
            ftruncate(t->image_fds[i], (off_t)t->description.image_size[i]) < 0)
            return error_set_errno(err, errno, "making room for the machine's images");
    }
    return 0;
}

static int take_image(struct migration_target *t, const struct byte_writer *frame, uint64_t *done,
                      struct error *err)
{
    struct byte_reader r;
    byte_reader_init(&r, frame->data, frame->length);
    uint8_t which = byte_reader_u8(&r);
    uint64_t offset = byte_reader_u64(&r);
    size_t length = byte_reader_left(&r);
    const uint8_t *bytes = byte_reader_view(&r, length);
    if (!bytes || length == 0 || which > 1 || offset != done[which] ||
        length > t->description.image_size[which] - offset)
        return error_set(err, EPROTO, "the source sent a piece of an image that doesn't fit");
    if (pwrite(t->image_fds[which], bytes, length, (off_t)offset) != (ssize_t)length)
        return error_set_errno(err, errno ? errno : EIO, "keeping the machine's images");
    done[which] += length;
    return 0;
}

static int receive_description(struct migration_target *t, struct error *err)
{
    struct byte_writer frame;
    uint32_t type;
    uint64_t done[2] = {0};
    byte_writer_init(&frame);
    channel_set_deadline(&t->control, FRAME_LIMIT);
    int rc = channel_receive_frame(&t->control, MIGRATE_DESCRIPTION_LIMIT, &type, &frame);
    if (rc < 0)
        rc = target_source_error(rc, err);
    else if (type != MIGRATE_DESCRIBE)
        rc = error_set(err, EPROTO, "the source sent %s where DESCRIBE was due",
                       migrate_frame_name(type));
    else
        rc = migrate_description_decode(&t->description, frame.data, frame.length, err);
    if (rc == 0)
        rc = make_images(t, err);
    while (rc == 0 &&
           (done[0] < t->description.image_size[0] || done[1] < t->description.image_size[1])) {
        channel_set_deadline(&t->control, FRAME_LIMIT);
        rc = channel_receive_frame(&t->control, MIGRATE_IMAGE_CHUNK + 9, &type, &frame);
        if (rc < 0)
            rc = target_source_error(rc, err);
        else if (type != MIGRATE_IMAGE)
            rc = error_set(err, EPROTO, "the source sent %s where IMAGE was due",
                           migrate_frame_name(type));
        else
            rc = take_image(t, &frame, done, err);
    }
    channel_set_deadline(&t->control, 0);
    channel_set_limit(&t->control, SILENCE_LIMIT);
    byte_writer_free(&frame);
    return rc;
}

static struct migration_target *new_target(int listen_fd,
                                           const struct migration_target_params *params)
{
    struct migration_target *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->params = *params;
    t->listen_fd = listen_fd;
    t->control.fd = t->image_fds[0] = t->image_fds[1] = -1;
    for (unsigned i = 0; i < MIGRATE_STREAMS_LIMIT; i++)
        t->data[i].fd = -1;
    pthread_mutex_init(&t->send_lock, NULL);
    pthread_mutex_init(&t->err_lock, NULL);
    arbiter_init(&t->arbiter);
    return t;
}

// A question about an attempt that this process knows nothing of. Not NOT_STARTED: another process
// may have listened here before, and run the machine now.
void target_answer_stranger(struct channel *channel)
{
    target_send_text(channel, MIGRATE_REFUSE, "this target knows nothing of it");
    channel_close(channel);
}

// The control connection is there: its greeting was read.
static int take_control(struct migration_target *t, struct error *err)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_u16(&w, MIGRATE_VERSION_MAJOR);
    byte_writer_u16(&w, MIGRATE_VERSION_MINOR);
    channel_set_limit(&t->control, SILENCE_LIMIT);
    int rc = target_send(t, MIGRATE_WELCOME, &w);
    target_pass_failure_point(t, "target-accepting");
    byte_writer_free(&w);
    rc = rc < 0 ? target_source_error(rc, err) : receive_description(t, err);
    if (rc == 0 && t->params.own_port) {
        channel_address_set_port(&t->params.listen, 0);
        t->listen_fd = channel_listen(&t->params.listen, err);
        t->owns_listen_fd = t->listen_fd >= 0;
        rc = t->listen_fd < 0 ? t->listen_fd : 0;
    }
    if (rc < 0)
        migration_target_refuse(t, err);
    return rc;
}

int migration_target_take(struct migration_target **target, int listen_fd, int control_fd,
                          const struct migration_target_params *params, struct error *err)
{
    struct migration_target *t = new_target(listen_fd, params);
    if (!t) {
        close(control_fd);
        return error_set_errno(err, ENOMEM, "taking a machine in");
    }
    channel_adopt(&t->control, control_fd);
    int rc = 0;
    if (!target_greet(&t->control, params, GREETING_LIMIT, &t->hello)) {
        rc = error_set(err, EAGAIN, "a connection that is no migration's was turned away");
    } else if (t->hello.role != MIGRATE_ROLE_CONTROL) {
        if (t->hello.role == MIGRATE_ROLE_QUERY)
            target_answer_stranger(&t->control);
        rc = error_set(err, EAGAIN, "a connection that begins no migration was turned away");
    } else {
        rc = take_control(t, err);
    }
    if (rc < 0)
        migration_target_free(t);
    else
        *target = t;
    return rc;
}

int migration_target_accept(struct migration_target **target, int listen_fd,
                            const struct migration_target_params *params, struct error *err)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return error_set_errno(err, errno, "waiting for a source");
        int rc = migration_target_take(target, listen_fd, fd, params, err);
        if (rc == 0)
            (*target)->owns_listen_fd = true;
        if (rc != -EAGAIN)
            return rc;
        log_warning("receive: %s", err->message);
    }
}
