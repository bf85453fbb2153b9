// Bytes as frames and as what members keep about each other.
#include "cluster/member/connection.h"
#include "cluster/member/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct member_record record;
    struct byte_writer again;
    uint16_t type;
    uint64_t id;
    long length = connection_frame_check(data, size, &type);
    if (length > 0 && (size_t)length > size)
        __builtin_trap();
    member_key_parse((struct store_bytes){data, size}, &id);
    if (member_record_decode(&record, (struct store_bytes){data, size})) {
        byte_writer_init(&again);
        member_record_encode(&again, &record);
        byte_writer_free(&again);
    }
    struct client_record client;
    client_key_parse((struct store_bytes){data, size}, &id);
    if (client_record_decode(&client, (struct store_bytes){data, size})) {
        byte_writer_init(&again);
        client_record_encode(&again, &client);
        byte_writer_free(&again);
    }
    return 0;
}
