// A Raft server among liars: any messages, in any order, in any state, between ticks, proposals,
// writes that complete late, compactions and crashes. The others may be as faulty as they like, so
// agreement can't be asked for; but memory, bounds and this server's own invariants hold, and it
// never stops itself for what others said.
//
// The input is a program: one byte says what happens next, the bytes after it how.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/raft.h"

#define IDS 6 // servers 1 to 5 and a stranger

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t left;
};

struct disk {
    struct raft_stored stored;
    struct raft_entry *entries; // (before, last_index], data owned
    size_t count;
};

struct server {
    struct raft *raft;
    struct disk disk;
    struct disk pending; // as the disk will be when the write under way completes
    uint64_t pending_number;
    struct raft_storage storage;
    struct raft_options options;
    uint64_t random;
    struct raft_status before; // the last step
};

static uint8_t take(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->data++;
}

// Mostly near `around`, sometimes anything.
static uint64_t take_number(struct input *in, uint64_t around)
{
    uint8_t how = take(in);

    if (how < 200)
        return around + (uint64_t)(how % 16) - 8 > UINT64_MAX / 2 ? how % 4 : around + how % 16 - 8;
    if (how < 240)
        return how % 8;
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | take(in);
    return value;
}

// ---- The disk ----

static void disk_truncate(struct disk *disk, size_t count)
{
    while (disk->count > count)
        free((void *)(uintptr_t)disk->entries[--disk->count].data);
    disk->stored.last_index = disk->stored.before.index + disk->count;
}

static void disk_append(struct disk *disk, const struct raft_entry *entry)
{
    uint8_t *data = NULL;

    assert(entry->index > disk->stored.before.index);
    assert(entry->index <= disk->stored.last_index + 1);
    disk_truncate(disk, (size_t)(entry->index - disk->stored.before.index - 1));
    if (entry->length) {
        data = malloc(entry->length);
        memcpy(data, entry->data, entry->length);
    }
    disk->entries = realloc(disk->entries, (disk->count + 1) * sizeof(*disk->entries));
    disk->entries[disk->count] = *entry;
    disk->entries[disk->count++].data = data;
    disk->stored.last_index++;
}

static void disk_free(struct disk *disk)
{
    disk_truncate(disk, 0);
    free(disk->entries);
    disk->entries = NULL;
}

static struct disk disk_copy(const struct disk *from)
{
    struct disk copy = {.stored = from->stored};

    copy.stored.last_index = copy.stored.before.index;
    for (size_t i = 0; i < from->count; i++)
        disk_append(&copy, &from->entries[i]);
    return copy;
}

static void disk_write(struct disk *disk, const struct raft_write *write)
{
    if (write->has_hard_state) {
        assert(write->hard_state.term >= disk->stored.hard_state.term);
        disk->stored.hard_state = write->hard_state;
    }
    if (write->chunk && write->chunk->done) {
        disk_truncate(disk, 0);
        disk->stored.snapshot.last = disk->stored.before = write->chunk->last;
        disk->stored.snapshot.configuration = *write->chunk->configuration;
        disk->stored.last_index = disk->stored.before.index;
    }
    for (size_t i = 0; i < write->entry_count; i++)
        disk_append(disk, &write->entries[i]);
}

static int storage_load(void *context, struct raft_stored *stored)
{
    *stored = ((struct server *)context)->disk.stored;
    return 0;
}

static int storage_read(void *context, uint64_t first, uint64_t last, size_t bytes_max,
                        struct raft_entry *entries, size_t *count)
{
    struct disk *disk = &((struct server *)context)->disk;
    size_t got = 0;

    (void)bytes_max;
    assert(first > disk->stored.before.index && last <= disk->stored.last_index && first <= last);
    for (; got < *count && first + got <= last; got++)
        entries[got] = disk->entries[first + got - disk->stored.before.index - 1];
    *count = got;
    return 0;
}

static int storage_read_snapshot(void *context, struct raft_position last, uint64_t offset,
                                 uint8_t *buffer, size_t capacity, size_t *length, bool *done)
{
    struct disk *disk = &((struct server *)context)->disk;

    if (disk->stored.snapshot.last.index != last.index)
        return -ENOENT;
    assert(offset <= 20);
    *length = 20 - offset < capacity ? 20 - offset : capacity;
    memset(buffer, 0, *length);
    *done = offset + *length == 20;
    return 0;
}

// ---- The server ----

static uint64_t draw(void *context)
{
    struct server *s = context;

    return s->random = s->random * 6364136223846793005u + 1;
}

static void server_start(struct server *s)
{
    assert(raft_create(&s->raft, &s->options) == 0);
    raft_inspect(s->raft, &s->before);
}

static void server_crash(struct server *s)
{
    raft_destroy(s->raft);
    if (s->pending_number)
        disk_free(&s->pending);
    s->pending_number = 0;
}

static void check(struct server *s)
{
    struct raft_status now, *was = &s->before;

    raft_inspect(s->raft, &now);
    assert(now.failure == 0);
    assert(now.hard_state.term >= was->hard_state.term);
    assert(now.hard_state.term > was->hard_state.term || was->hard_state.voted_for == RAFT_NONE ||
           now.hard_state.voted_for == was->hard_state.voted_for);
    assert(now.commit >= was->commit && now.commit <= now.last.index);
    assert(now.applied >= was->applied && now.applied <= now.commit);
    assert(now.before.index <= now.commit && now.last.index >= now.before.index);
    assert(now.last.term <= now.hard_state.term);
    assert(raft_log_term(s->raft, now.last.index) == now.last.term);
    assert(now.unwritten_bytes <= s->options.unwritten_bytes_max + (1 << 20));
    assert(now.reads_waiting <= s->options.reads_max);
    if (now.role == RAFT_LEADER) {
        assert(now.leader == now.id);
        if (was->role == RAFT_LEADER && was->hard_state.term == now.hard_state.term)
            assert(now.last.index >= was->last.index); // LEAD6
    }
    *was = now;
}

static void complete_write(struct server *s)
{
    if (!s->pending_number)
        return;
    uint64_t number = s->pending_number;

    disk_free(&s->disk);
    s->disk = s->pending;
    s->pending_number = 0;
    assert(raft_written(s->raft, number) == 0);
}

static void deal_with_readies(struct server *s)
{
    struct raft_ready ready;
    int guard = 0;

    while (raft_ready(s->raft, &ready)) {
        static uint8_t bytes[1 << 16];
        size_t length;

        assert(++guard < 10000); // each ready gets somewhere
        for (size_t i = 0; i < ready.message_count; i++) {
            assert(ready.messages[i].to != s->options.id);
            if (raft_message_size(&ready.messages[i]) <= sizeof(bytes))
                assert(raft_message_encode(&ready.messages[i], bytes, sizeof(bytes), &length) == 0);
        }
        if (ready.write) {
            assert(!s->pending_number);
            s->pending = disk_copy(&s->disk);
            disk_write(&s->pending, ready.write);
            s->pending_number = ready.write->number;
        }
        raft_advance(s->raft);
    }
}

// ---- Lies ----

static struct raft_position take_position(struct input *in, const struct raft_status *status)
{
    struct raft_position position;

    position.index = take_number(in, status->last.index);
    position.term = take_number(in, status->last.term);
    return position;
}

static void take_configuration(struct input *in, struct raft_configuration *configuration)
{
    *configuration = (struct raft_configuration){.count = 0};
    for (uint64_t id = 1; id <= IDS; id++) {
        uint8_t roles = take(in) % 8;

        if (roles)
            configuration->members[configuration->count++] = (struct raft_member){id, roles};
    }
}

static void lie_append(struct input *in, struct raft_message *m, const struct raft_status *status,
                       struct raft_entry *entries, uint8_t *data)
{
    struct raft_configuration configuration;

    m->append_request.previous = take_position(in, status);
    if (take(in) % 4 == 0)
        m->append_request.previous = status->last;
    m->append_request.commit = take_number(in, status->commit);
    m->append_request.entries = entries;
    m->append_request.entry_count = take(in) % 8;
    uint64_t term = m->append_request.previous.term;
    for (uint32_t i = 0; i < m->append_request.entry_count; i++) {
        entries[i].index = m->append_request.previous.index + 1 + i;
        term = entries[i].term = take(in) % 4 ? m->term : take_number(in, term);
        entries[i].type = (enum raft_entry_type)(take(in) % 4);
        entries[i].data = data;
        entries[i].length = take(in) % 8;
        if (entries[i].type == RAFT_ENTRY_NOOP)
            entries[i].length = 0;
        if (entries[i].type == RAFT_ENTRY_CONFIGURATION) {
            take_configuration(in, &configuration);
            entries[i].length = (uint32_t)raft_configuration_encode(&configuration, data);
        }
    }
}

static void lie(struct server *s, struct input *in)
{
    static uint8_t data[RAFT_CONFIGURATION_BYTES_MAX];
    struct raft_entry entries[8];
    struct raft_configuration configuration;
    struct raft_status status;
    struct raft_message m = {.to = 1};

    raft_inspect(s->raft, &status);
    memset(entries, 0, sizeof(entries));
    m.type = (enum raft_message_type)(take(in) % (RAFT_MESSAGE_TYPE_MAX + 2));
    m.from = take(in) % (IDS + 1);
    m.term = take(in) % 2 ? status.hard_state.term : take_number(in, status.hard_state.term);
    switch (m.type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        m.vote_request.last = take_position(in, &status);
        m.vote_request.transfer = take(in) % 2;
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
        m.vote_reply.granted = take(in) % 4 != 0;
        if (m.vote_reply.granted && take(in) % 4)
            m.term = status.hard_state.term + 1;
        break;
    case RAFT_MESSAGE_VOTE_REPLY:
        m.vote_reply.granted = take(in) % 4 != 0;
        break;
    case RAFT_MESSAGE_APPEND_REQUEST:
        lie_append(in, &m, &status, entries, data);
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
        m.append_reply.success = take(in) % 2;
        m.append_reply.match = take_number(in, status.last.index);
        m.append_reply.rejected = take_number(in, status.last.index);
        m.append_reply.hint = take_position(in, &status);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        m.heartbeat_request.commit = take_number(in, status.commit);
        m.heartbeat_request.round = take_number(in, 8);
        break;
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
        m.heartbeat_reply.round = take_number(in, 8);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        m.snapshot_request.last = take_position(in, &status);
        take_configuration(in, &configuration);
        m.snapshot_request.configuration = take(in) % 8 ? &configuration : NULL;
        m.snapshot_request.offset = take_number(in, 8);
        m.snapshot_request.data = data;
        m.snapshot_request.length = take(in) % 16;
        m.snapshot_request.done = take(in) % 2;
        break;
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        m.snapshot_reply.last = take(in) % 2 ? status.snapshot : take_position(in, &status);
        m.snapshot_reply.offset = take_number(in, 8);
        m.snapshot_reply.installed = take(in) % 2;
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        break;
    }
    raft_step(s->raft, &m);
}

// ---- The owner ----

static void compact(struct server *s, struct input *in)
{
    struct raft_status status;
    const struct raft_configuration *configuration;
    struct disk *disk = &s->disk;

    raft_inspect(s->raft, &status);
    configuration = raft_configuration_at(s->raft, status.applied);
    // An owner compacts neither beside a write (this one copies its disk) nor while it installs.
    if (s->pending_number || !configuration || status.applied < status.before.index)
        return;
    disk->stored.snapshot.last =
        (struct raft_position){status.applied, raft_log_term(s->raft, status.applied)};
    disk->stored.snapshot.configuration = *configuration;
    uint64_t to = raft_retain_index(s->raft);
    size_t gone = to > disk->stored.before.index ? (size_t)(to - disk->stored.before.index) : 0;
    gone = gone ? take(in) % (gone + 1) : 0;
    for (size_t i = 0; i < gone; i++)
        free((void *)(uintptr_t)disk->entries[i].data);
    if (gone) {
        disk->stored.before =
            (struct raft_position){disk->entries[gone - 1].index, disk->entries[gone - 1].term};
        memmove(disk->entries, disk->entries + gone, (disk->count - gone) * sizeof(*disk->entries));
        disk->count -= gone;
    }
    assert(raft_compacted(s->raft) == 0);
}

static void act(struct server *s, struct input *in)
{
    struct raft_configuration configuration;
    uint8_t data[8] = {0};

    switch (take(in) % 16) {
    case 0:
        for (int ticks = take(in) % 8 + 1; ticks > 0; ticks--)
            raft_tick(s->raft);
        break;
    case 1:
        raft_propose(s->raft, data, take(in) % sizeof(data), NULL);
        break;
    case 2:
        take_configuration(in, &configuration);
        raft_propose_configuration(s->raft, configuration.members, configuration.count, NULL);
        break;
    case 3:
        raft_read_index(s->raft, take(in));
        break;
    case 4:
        raft_transfer_leadership(s->raft, take(in) % (IDS + 1));
        break;
    case 5:
        raft_campaign(s->raft);
        break;
    case 6:
    case 7:
        complete_write(s);
        break;
    case 8:
        compact(s, in);
        break;
    case 9:
        if (take(in) % 8 == 0) {
            server_crash(s);
            server_start(s);
        }
        break;
    default:
        lie(s, in);
        break;
    }
    if (take(in) % 4)
        deal_with_readies(s);
    check(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .left = size};
    struct server s = {.random = 1};
    uint8_t voters = take(&in) % 6;

    s.storage = (struct raft_storage){.context = &s,
                                      .load = storage_load,
                                      .read = storage_read,
                                      .read_snapshot = storage_read_snapshot};
    for (uint64_t id = 1; id <= voters; id++)
        s.disk.stored.snapshot.configuration.members[s.disk.stored.snapshot.configuration.count++] =
            (struct raft_member){id, RAFT_VOTER};
    raft_options_default(&s.options);
    s.options.id = 1;
    s.options.storage = &s.storage;
    s.options.random = draw;
    s.options.random_context = &s;
    s.options.heartbeat_ticks = 2;
    s.options.election_ticks_min = 5;
    s.options.election_ticks_max = 9;
    s.options.window_messages = 3;
    s.options.message_entries_max = 3;
    s.options.committed_entries_max = 3;
    s.options.snapshot_chunk_bytes = 6;
    s.options.unapplied_bytes_max = 1000;
    s.options.unwritten_bytes_max = 1000;
    s.options.reads_max = 8;
    server_start(&s);
    while (in.left > 0)
        act(&s, &in);
    server_crash(&s);
    disk_free(&s.disk);
    return 0;
}
