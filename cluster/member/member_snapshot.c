// Snapshots of the store: taken piece by piece between the loop's other work, and received ones
// decoded on a thread of their own.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cluster/member/member_internal.h"

enum { PIECE_BYTES = 256 << 10, BACKLOG_MAX = 8, KEEP_ENTRIES = 1000 };

void member_snapshot_cancel(struct member *member)
{
    if (!member->taking)
        return;
    store_snapshot_end(member->taking);
    member->taking = NULL;
    if (!member->taking_done)
        wal_thread_snapshot_end(member->wal_thread, false);
}

static void begin_snapshot(struct member *member, const struct raft_status *status)
{
    const struct raft_configuration *configuration =
        raft_configuration_at(member->raft, status->applied);
    if (!configuration || store_snapshot_begin(&member->taking, member->machine))
        return;
    struct raft_snapshot snapshot = {
        .last = {status->applied, raft_log_term(member->raft, status->applied)},
        .configuration = *configuration,
    };
    member->taking_done = false;
    if (wal_thread_snapshot_begin(member->wal_thread, &snapshot)) {
        store_snapshot_end(member->taking);
        member->taking = NULL;
    }
}

static void continue_snapshot(struct member *member)
{
    while (!member->taking_done && wal_thread_snapshot_backlog(member->wal_thread) < BACKLOG_MAX) {
        struct byte_writer w;
        byte_writer_init(&w);
        if (store_snapshot_encode(member->taking, &w, PIECE_BYTES, &member->taking_done)) {
            byte_writer_free(&w);
            member->taking_done = false;
            member_snapshot_cancel(member);
            return;
        }
        wal_thread_snapshot_piece(member->wal_thread, w.data, w.length);
    }
    if (member->taking_done) {
        store_snapshot_end(member->taking);
        member->taking = NULL;
        wal_thread_snapshot_end(member->wal_thread, true);
    }
}

void member_snapshot_tick(struct member *member)
{
    struct raft_status status;
    raft_inspect(member->raft, &status);
    if (!member->taking && !member->installing && status.applied == member->machine->applied &&
        status.applied >= status.snapshot.index + member->options.snapshot_entries)
        begin_snapshot(member, &status);
    if (member->taking)
        continue_snapshot(member);
}

void member_snapshot_written(struct member *member, const struct wal_event *event)
{
    if (event->error) {
        if (event->error != -ECANCELED)
            log_warning("no snapshot could be written: %s; it is tried again later",
                        strerror(-event->error));
        return;
    }
    if (wal_snapshot_adopt(member->wal, &event->snapshot))
        return;
    // Some entries stay for members that are a little behind: cheaper for them than a snapshot.
    uint64_t keep = event->snapshot.last.index;
    uint64_t retain = raft_retain_index(member->raft);
    keep = keep > KEEP_ENTRIES ? keep - KEEP_ENTRIES : 0;
    wal_compact(member->wal, keep < retain ? keep : retain);
    int error = raft_compacted(member->raft);
    if (error)
        member_end(member, EIO, "raft: %s", raft_strerror(error));
    wal_thread_maintain(member->wal_thread);
}

int member_load_machine(const struct wal *wal, struct raft_position last, uint32_t newest,
                        struct store_machine **machine, struct error *err)
{
    struct wal_snapshot_reader *reader = NULL;
    struct store_restore *restore = NULL;
    uint8_t *buffer = malloc(PIECE_BYTES);
    int error = buffer ? wal_snapshot_load(wal, last, &reader, err)
                       : error_set(err, ENOMEM, "out of memory");
    if (error) {
        free(buffer);
        return error;
    }
    size_t got = 1;
    error = store_restore_begin(&restore);
    if (!error)
        store_restore_understand(restore, newest);
    for (uint64_t at = 0; !error && got; at += got) {
        error = wal_snapshot_read(reader, at, buffer, PIECE_BYTES, &got);
        if (!error)
            error = store_restore_feed(restore, buffer, got);
    }
    wal_snapshot_reader_free(reader);
    free(buffer);
    if (restore) {
        int finished = store_restore_finish(restore, machine);
        if (!error)
            error = finished;
        else if (finished == 0)
            store_machine_destroy(*machine);
    }
    if (!error && (*machine)->applied != last.index) {
        store_machine_destroy(*machine);
        error = -EBADMSG;
    }
    if (error == -EPROTONOSUPPORT)
        return error_set(err, EPROTONOSUPPORT,
                         "the cluster uses commands that this version of ferry doesn't know: "
                         "install the version that the other members run");
    if (error == -EBADMSG || error == -EIO)
        return error_set(err, -error,
                         "snapshot 'snap-%016lx-%016lx' is damaged (its contents have another "
                         "checksum, or make no sense): remove this member and let a new one join "
                         "in its place",
                         last.index, last.term);
    if (error)
        return error_set_errno(err, -error, "the snapshot of entry %lu can't be used", last.index);
    return 0;
}

static void decode_work(uv_work_t *work)
{
    struct member *member = work->data;
    struct error err = {0};
    member->decode_error =
        member_load_machine(member->wal, member->decode_position, member->options.newest_command,
                            &member->decoded_machine, &err);
    if (member->decode_error)
        log_error("%s", err.message);
}

static void decode_done(uv_work_t *work, int status)
{
    struct member *member = work->data;
    struct wal_batch *batch = member->installing;
    member->decoding = false;
    member->installing = NULL;
    if (member->stopping || member->ended || member->decode_error) {
        wal_batch_abandon(batch);
        if (!member->decode_error)
            store_machine_destroy(member->decoded_machine);
        if (member->stopping)
            member_tick_ended(member);
        else
            member_end(member, EIO, "a received snapshot can't be used");
        return;
    }
    store_machine_destroy(member->machine);
    member->machine = member->decoded_machine;
    member->decoded_machine = NULL;
    member->machine->system_changed = true;
    log_info("installed a snapshot that ends with entry %lu", member->decode_position.index);
    member_written(member, batch);
}

void member_install(struct member *member, struct wal_batch *batch, struct raft_position last)
{
    // The machine that is being replaced can't be looked at any longer.
    struct client *client;
    member_snapshot_cancel(member);
    LIST_FOREACH(client, &member->clients, link)
    {
        if (!client->streaming)
            continue;
        store_snapshot_end(client->streaming);
        client->streaming = NULL;
        member_answer_status(member, client, client->stream_request, STORE_BUSY);
    }
    member->installing = batch;
    member->decode_position = last;
    member->decode.data = member;
    member->decoding = uv_queue_work(member->loop, &member->decode, decode_work, decode_done) == 0;
    if (!member->decoding)
        member_end(member, ENOMEM, "a received snapshot can't be decoded");
}

// Sends the next pieces of a snapshot to a client; false when it is finished.
bool member_stream_snapshot(struct client *client)
{
    struct member *member = client->member;
    while (client->streaming && connection_queued(client->connection) < MEMBER_CLIENT_QUEUE) {
        struct byte_writer *w = &member->frame;
        bool done = false;
        uint8_t head[9];
        byte_writer_reset(w);
        if (store_snapshot_encode(client->streaming, w, PIECE_BYTES, &done)) {
            store_snapshot_end(client->streaming);
            client->streaming = NULL;
            member_answer_status(member, client, client->stream_request, STORE_BUSY);
            return false;
        }
        bytes_put_u64(head, client->stream_request);
        head[8] = done;
        connection_send2(client->connection, PROTOCOL_CHUNK, head, sizeof(head), w->data,
                         w->length);
        if (done) {
            store_snapshot_end(client->streaming);
            client->streaming = NULL;
        }
    }
    return client->streaming != NULL;
}
