// Bytes as a transaction, as an answer, as a command and as a snapshot.
#include <stdlib.h>

#include "cluster/store/machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_txn(const uint8_t *data, size_t size)
{
    struct store_txn_decoded *decoded = malloc(sizeof(*decoded));
    struct byte_reader r;
    byte_reader_init(&r, data, size);
    if (decoded && store_txn_decode(decoded, &r) == STORE_OK &&
        store_txn_check(&decoded->txn, false) == STORE_OK) {
        struct byte_writer again;
        byte_writer_init(&again);
        store_txn_encode(&again, &decoded->txn);
        if (again.length != r.offset)
            __builtin_trap();
        byte_writer_free(&again);
    }
    free(decoded);
}

static void as_commands(const uint8_t *data, size_t size)
{
    struct store_machine *machine;
    struct byte_writer answer;
    if (store_machine_create(&machine))
        return;
    byte_writer_init(&answer);
    // A length, a command, a length ...
    while (size > 2) {
        size_t length = data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        if (length > size)
            length = size;
        if (store_machine_apply(machine, machine->applied + 1, data, length, &answer))
            break;
        store_machine_idle(machine, 3);
        data += length;
        size -= length;
    }
    store_machine_hash(machine);
    byte_writer_free(&answer);
    store_machine_destroy(machine);
}

static void as_snapshot(const uint8_t *data, size_t size)
{
    struct store_restore *restore;
    struct store_machine *machine;
    if (store_restore_begin(&restore))
        return;
    size_t half = size / 2;
    if (store_restore_feed(restore, data, half) == 0)
        store_restore_feed(restore, data + half, size - half);
    if (store_restore_finish(restore, &machine) == 0) {
        store_machine_hash(machine);
        store_machine_destroy(machine);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store_result result;
    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0:
        as_txn(data + 1, size - 1);
        break;
    case 1:
        if (store_result_decode(&result, data + 1, size - 1) == 0)
            store_result_free(&result);
        break;
    case 2:
        as_commands(data + 1, size - 1);
        break;
    case 3:
        as_snapshot(data + 1, size - 1);
        break;
    }
    return 0;
}
