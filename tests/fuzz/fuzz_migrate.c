// Bytes as what a source says first: its greeting (first byte even) or the description of its
// machine (odd); and, if that byte is 0xff, as what a target answers.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/description.h"
#include "migrate/source_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ANSWERS_LIMIT = 50000 }; // fits into a socket's buffer

static void try_hello(const uint8_t *data, size_t size)
{
    struct migrate_hello hello, again;
    struct byte_writer w;
    if (!migrate_hello_decode(&hello, data, size))
        return;
    byte_writer_init(&w);
    migrate_hello_encode(&hello, &w);
    if (!migrate_hello_decode(&again, w.data, w.length) ||
        memcmp(hello.id, again.id, sizeof(hello.id)) != 0 || strcmp(hello.token, again.token) != 0)
        abort();
    byte_writer_free(&w);
}

static void try_description(const uint8_t *data, size_t size)
{
    static struct migrate_description description, again;
    struct error err = {0};
    struct byte_writer w;
    if (migrate_description_decode(&description, data, size, &err) < 0) {
        if (!err.message[0])
            abort();
        return;
    }
    // What was accepted can be handed on.
    byte_writer_init(&w);
    if (migrate_description_encode(&description, &w, &err) < 0 ||
        migrate_description_decode(&again, w.data, w.length, &err) < 0)
        abort();
    byte_writer_free(&w);
    machine_config_free(&description.config);
    machine_config_free(&again.config);
}

// Frames of any kind; what is taken for a reason is printed on a terminal.
static void try_answers(const uint8_t *data, size_t size)
{
    struct byte_writer frame;
    struct channel channel;
    uint32_t type;
    char reason[MIGRATE_TEXT_LIMIT];
    int fds[2];
    if (size > ANSWERS_LIMIT || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return;
    byte_writer_init(&frame);
    channel_adopt(&channel, fds[0]);
    if (send(fds[1], data, size, MSG_NOSIGNAL) < 0)
        abort();
    close(fds[1]);
    while (channel_receive_frame(&channel, MIGRATE_TEXT_LIMIT + 4, &type, &frame) == 0) {
        if (frame.length > MIGRATE_TEXT_LIMIT + 4 || !migrate_frame_name(type)[0])
            abort();
        memset(reason, 'x', sizeof(reason));
        source_read_reason(&frame, reason, sizeof(reason));
        if (!memchr(reason, 0, sizeof(reason)))
            abort();
        for (const char *p = reason; *p; p++)
            if ((unsigned char)*p < ' ')
                abort();
    }
    channel_close(&channel);
    byte_writer_free(&frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 0xff)
        try_answers(data + 1, size - 1);
    else if (data[0] % 2 == 0)
        try_hello(data + 1, size - 1);
    else
        try_description(data + 1, size - 1);
    return 0;
}
