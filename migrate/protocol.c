#include "migrate/protocol.h"

void migrate_hello_encode(const struct migrate_hello *hello, struct byte_writer *w)
{
    byte_writer_u64(w, MIGRATE_MAGIC);
    byte_writer_u16(w, hello->major);
    byte_writer_u16(w, hello->minor);
    byte_writer_u8(w, hello->role);
    byte_writer_bytes(w, hello->id, sizeof(hello->id));
    byte_writer_u16(w, hello->index);
    byte_writer_string(w, hello->token);
}

bool migrate_hello_decode(struct migrate_hello *hello, const void *data, size_t length)
{
    struct byte_reader r;
    byte_reader_init(&r, data, length);
    bool magic = byte_reader_u64(&r) == MIGRATE_MAGIC;
    hello->major = byte_reader_u16(&r);
    hello->minor = byte_reader_u16(&r);
    hello->role = byte_reader_u8(&r);
    byte_reader_bytes(&r, hello->id, sizeof(hello->id));
    hello->index = byte_reader_u16(&r);
    byte_reader_string(&r, hello->token, sizeof(hello->token));
    // What a newer minor version has behind is none of ours.
    return magic && !r.failed && hello->role <= MIGRATE_ROLE_QUERY;
}

const char *migrate_frame_name(uint32_t type)
{
    static const char *const names[] = {
        [MIGRATE_HELLO] = "HELLO",   [MIGRATE_WELCOME] = "WELCOME",
        [MIGRATE_REFUSE] = "REFUSE", [MIGRATE_DESCRIBE] = "DESCRIBE",
        [MIGRATE_READY] = "READY",   [MIGRATE_IMAGE] = "IMAGE",
        [MIGRATE_PAGES] = "PAGES",   [MIGRATE_ZERO] = "ZERO",
        [MIGRATE_ROUND] = "ROUND",   [MIGRATE_ROUND_DONE] = "ROUND_DONE",
        [MIGRATE_STATE] = "STATE",   [MIGRATE_LOADED] = "LOADED",
        [MIGRATE_COMMIT] = "COMMIT", [MIGRATE_STARTED] = "STARTED",
        [MIGRATE_ABORT] = "ABORT",   [MIGRATE_NOT_STARTED] = "NOT_STARTED",
        [MIGRATE_COMING] = "COMING",
    };
    return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type]
                                                                  : "an unknown frame";
}
