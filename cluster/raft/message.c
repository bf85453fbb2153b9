// The encoding of messages, version 1; docs/raft.md has the table.
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "cluster/raft/raft_internal.h"

#define HEADER_BYTES   (1 + 1 + 8 + 8 + 8)
#define POSITION_BYTES 16
#define ENTRY_BYTES    (8 + 1 + 4) // the index follows from the place

const char *raft_message_type_name(enum raft_message_type type)
{
    static const char *const names[] = {
        [RAFT_MESSAGE_PRE_VOTE_REQUEST] = "pre-vote request",
        [RAFT_MESSAGE_PRE_VOTE_REPLY] = "pre-vote reply",
        [RAFT_MESSAGE_VOTE_REQUEST] = "vote request",
        [RAFT_MESSAGE_VOTE_REPLY] = "vote reply",
        [RAFT_MESSAGE_APPEND_REQUEST] = "append request",
        [RAFT_MESSAGE_APPEND_REPLY] = "append reply",
        [RAFT_MESSAGE_HEARTBEAT_REQUEST] = "heartbeat request",
        [RAFT_MESSAGE_HEARTBEAT_REPLY] = "heartbeat reply",
        [RAFT_MESSAGE_SNAPSHOT_REQUEST] = "snapshot request",
        [RAFT_MESSAGE_SNAPSHOT_REPLY] = "snapshot reply",
        [RAFT_MESSAGE_TIMEOUT_NOW] = "timeout now",
    };

    if ((int)type < 1 || type > RAFT_MESSAGE_TYPE_MAX)
        return "unknown";
    return names[type];
}

static size_t append_request_size(const struct raft_append_request *request)
{
    size_t size = POSITION_BYTES + 8 + 4;

    for (uint32_t i = 0; i < request->entry_count; i++)
        size += ENTRY_BYTES + request->entries[i].length;
    return size;
}

static size_t snapshot_request_size(const struct raft_snapshot_request *request)
{
    size_t members = request->configuration ? request->configuration->count : 0;

    return POSITION_BYTES + 4 + (2 + 4 + members * 9) + 8 + 1 + 4 + request->length;
}

size_t raft_message_size(const struct raft_message *message)
{
    switch (message->type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        return HEADER_BYTES + POSITION_BYTES + 1;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
        return HEADER_BYTES + 1;
    case RAFT_MESSAGE_APPEND_REQUEST:
        return HEADER_BYTES + append_request_size(&message->append_request);
    case RAFT_MESSAGE_APPEND_REPLY:
        return HEADER_BYTES + 1 + 8 + 8 + POSITION_BYTES;
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        return HEADER_BYTES + 8 + 8;
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
        return HEADER_BYTES + 8;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        return HEADER_BYTES + snapshot_request_size(&message->snapshot_request);
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        return HEADER_BYTES + POSITION_BYTES + 8 + 1;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        return HEADER_BYTES;
    }
    return 0;
}

static void write_position(struct byte_writer *w, struct raft_position position)
{
    byte_writer_u64(w, position.index);
    byte_writer_u64(w, position.term);
}

static void write_append_request(struct byte_writer *w, const struct raft_append_request *request)
{
    write_position(w, request->previous);
    byte_writer_u64(w, request->commit);
    byte_writer_u32(w, request->entry_count);
    for (uint32_t i = 0; i < request->entry_count; i++) {
        byte_writer_u64(w, request->entries[i].term);
        byte_writer_u8(w, (uint8_t)request->entries[i].type);
        byte_writer_blob(w, request->entries[i].data, request->entries[i].length);
    }
}

static void write_append_reply(struct byte_writer *w, const struct raft_append_reply *reply)
{
    byte_writer_u8(w, reply->success);
    byte_writer_u64(w, reply->match);
    byte_writer_u64(w, reply->rejected);
    write_position(w, reply->hint);
}

static void write_snapshot_request(struct byte_writer *w,
                                   const struct raft_snapshot_request *request)
{
    uint8_t configuration[RAFT_CONFIGURATION_BYTES_MAX];
    size_t length = raft_configuration_encode(request->configuration, configuration);

    write_position(w, request->last);
    byte_writer_blob(w, configuration, length);
    byte_writer_u64(w, request->offset);
    byte_writer_u8(w, request->done);
    byte_writer_blob(w, request->data, request->length);
}

static void write_body(struct byte_writer *w, const struct raft_message *message)
{
    switch (message->type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        write_position(w, message->vote_request.last);
        byte_writer_u8(w, message->vote_request.transfer);
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
        byte_writer_u8(w, message->vote_reply.granted);
        break;
    case RAFT_MESSAGE_APPEND_REQUEST:
        write_append_request(w, &message->append_request);
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
        write_append_reply(w, &message->append_reply);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        byte_writer_u64(w, message->heartbeat_request.commit);
        byte_writer_u64(w, message->heartbeat_request.round);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
        byte_writer_u64(w, message->heartbeat_reply.round);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        write_snapshot_request(w, &message->snapshot_request);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        write_position(w, message->snapshot_reply.last);
        byte_writer_u64(w, message->snapshot_reply.offset);
        byte_writer_u8(w, message->snapshot_reply.installed);
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        break;
    }
}

static bool can_be_encoded(const struct raft_message *message)
{
    if ((int)message->type < 1 || message->type > RAFT_MESSAGE_TYPE_MAX)
        return false;
    if (message->type == RAFT_MESSAGE_APPEND_REQUEST)
        return message->append_request.entry_count <= RAFT_MESSAGE_ENTRIES_MAX;
    if (message->type == RAFT_MESSAGE_SNAPSHOT_REQUEST)
        return message->snapshot_request.configuration &&
               message->snapshot_request.configuration->count <= RAFT_MEMBERS_MAX;
    return true;
}

int raft_message_encode(const struct raft_message *message, uint8_t *buffer, size_t capacity,
                        size_t *length)
{
    struct byte_writer w;

    if (!can_be_encoded(message))
        return -EINVAL;
    byte_writer_init_fixed(&w, buffer, capacity);
    byte_writer_u8(&w, RAFT_MESSAGE_VERSION);
    byte_writer_u8(&w, (uint8_t)message->type);
    byte_writer_u64(&w, message->from);
    byte_writer_u64(&w, message->to);
    byte_writer_u64(&w, message->term);
    write_body(&w, message);
    if (w.failed)
        return -ENOSPC;
    *length = w.length;
    return 0;
}

// ---- Decoding: nothing is believed before it is checked ----

static bool read_bool(struct byte_reader *r)
{
    uint8_t value = byte_reader_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

static struct raft_position read_position(struct byte_reader *r)
{
    struct raft_position position;

    position.index = byte_reader_u64(r);
    position.term = byte_reader_u64(r);
    return position;
}

static void read_append_request(struct byte_reader *r, struct raft_message_decoded *decoded)
{
    struct raft_append_request *request = &decoded->message.append_request;

    request->previous = read_position(r);
    request->commit = byte_reader_u64(r);
    request->entry_count = byte_reader_u32(r);
    request->entries = decoded->entries;
    if (request->entry_count > RAFT_MESSAGE_ENTRIES_MAX ||
        request->previous.index > RAFT_NUMBER_MAX - RAFT_MESSAGE_ENTRIES_MAX) {
        r->failed = true;
        return;
    }
    uint64_t term = request->previous.term;
    for (uint32_t i = 0; i < request->entry_count && !r->failed; i++) {
        struct raft_entry *entry = &decoded->entries[i];
        size_t length = 0;

        entry->index = request->previous.index + 1 + i;
        entry->term = byte_reader_u64(r);
        uint8_t type = byte_reader_u8(r);
        entry->type = (enum raft_entry_type)type;
        entry->data = byte_reader_blob(r, RAFT_ENTRY_BYTES_MAX, &length);
        entry->length = (uint32_t)length;
        if (length == 0)
            entry->data = NULL;
        if (type > RAFT_ENTRY_CONFIGURATION || entry->term < term)
            r->failed = true;
        term = entry->term;
    }
}

static void read_append_reply(struct byte_reader *r, struct raft_append_reply *reply)
{
    reply->success = read_bool(r);
    reply->match = byte_reader_u64(r);
    reply->rejected = byte_reader_u64(r);
    reply->hint = read_position(r);
}

static void read_snapshot_request(struct byte_reader *r, struct raft_message_decoded *decoded)
{
    struct raft_snapshot_request *request = &decoded->message.snapshot_request;
    size_t length = 0;

    request->last = read_position(r);
    const uint8_t *configuration = byte_reader_blob(r, RAFT_CONFIGURATION_BYTES_MAX, &length);
    if (!configuration ||
        raft_configuration_decode(&decoded->configuration, configuration, length)) {
        r->failed = true;
        return;
    }
    request->configuration = &decoded->configuration;
    request->offset = byte_reader_u64(r);
    request->done = read_bool(r);
    length = 0;
    request->data = byte_reader_blob(r, RAFT_CHUNK_BYTES_MAX, &length);
    request->length = (uint32_t)length;
    if (length == 0)
        request->data = NULL;
}

static void read_body(struct byte_reader *r, struct raft_message_decoded *decoded)
{
    struct raft_message *message = &decoded->message;

    switch (message->type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        message->vote_request.last = read_position(r);
        message->vote_request.transfer = read_bool(r);
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
        message->vote_reply.granted = read_bool(r);
        break;
    case RAFT_MESSAGE_APPEND_REQUEST:
        read_append_request(r, decoded);
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
        read_append_reply(r, &message->append_reply);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        message->heartbeat_request.commit = byte_reader_u64(r);
        message->heartbeat_request.round = byte_reader_u64(r);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
        message->heartbeat_reply.round = byte_reader_u64(r);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        read_snapshot_request(r, decoded);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        message->snapshot_reply.last = read_position(r);
        message->snapshot_reply.offset = byte_reader_u64(r);
        message->snapshot_reply.installed = read_bool(r);
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        break;
    }
}

int raft_message_decode(struct raft_message_decoded *decoded, const uint8_t *data, size_t length)
{
    struct raft_message *message = &decoded->message;
    struct byte_reader r;

    memset(message, 0, sizeof(*message));
    byte_reader_init(&r, data, length);
    uint8_t version = byte_reader_u8(&r);
    if (!r.failed && version != RAFT_MESSAGE_VERSION)
        return -EPROTONOSUPPORT;
    uint8_t type = byte_reader_u8(&r);
    message->from = byte_reader_u64(&r);
    message->to = byte_reader_u64(&r);
    message->term = byte_reader_u64(&r);
    if (r.failed || type < 1 || type > RAFT_MESSAGE_TYPE_MAX || message->from == RAFT_NONE ||
        message->to == RAFT_NONE)
        return -EBADMSG;
    message->type = (enum raft_message_type)type;
    read_body(&r, decoded);
    return r.failed || byte_reader_left(&r) != 0 ? -EBADMSG : 0;
}
