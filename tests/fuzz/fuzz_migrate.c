// Bytes as what a source says first: its greeting (first byte even) or the description of its
// machine (odd).
#include <stdlib.h>
#include <string.h>

#include "migrate/description.h"
#include "migrate/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 2 == 0)
        try_hello(data + 1, size - 1);
    else
        try_description(data + 1, size - 1);
    return 0;
}
