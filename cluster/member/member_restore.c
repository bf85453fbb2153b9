// A new cluster out of a snapshot: the same keys, other members.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cluster/member/member_internal.h"

enum { PRUNE_AT_ONCE = 1 << 16 };

static int decode_machine(const void *bytes, size_t length, struct store_machine **machine,
                          struct error *err)
{
    struct store_restore *restore;
    int error = store_restore_begin(&restore);
    if (!error) {
        error = store_restore_feed(restore, bytes, length);
        int finished = store_restore_finish(restore, machine);
        if (error && !finished)
            store_machine_destroy(*machine);
        else if (!error)
            error = finished;
    }
    if (error == -EPROTONOSUPPORT)
        return error_set(err, EPROTONOSUPPORT, "the snapshot is of another version of ferry");
    if (error)
        return error_set_errno(err, -error, "the snapshot can't be read");
    return 0;
}

// What was committed after the snapshot is forgotten, its revisions aren't: who had watched up to
// one of them must neither miss what comes now nor take it for what it was. So revisions begin anew
// above all that can have been, also by an earlier restore of the same snapshot (by the clock, a
// million for each second, or else a milliard more than before), and all before them are compacted.
static void begin_revisions_anew(struct store_machine *machine)
{
    struct mvcc *mvcc = &machine->mvcc;
    uint64_t by_clock = clock_realtime_ns() / NSEC_PER_USEC;
    uint64_t least = mvcc->revision + 1000 * 1000 * 1000;
    mvcc->revision = by_clock > least ? by_clock : least;
    mvcc->compacted = mvcc->revision;
    while (!mvcc_prune(mvcc, PRUNE_AT_ONCE))
        ;
}

// The old members and their tokens go; the new one comes. In one revision.
static int replace_members(struct store_machine *machine, const struct member_record *self,
                           bool keep_ca)
{
    static const uint8_t first[1] = {0}, after[1] = {1};
    static const uint8_t ca_first[4] = {0, 'c', 'a', '/'}, ca_after[4] = {0, 'c', 'a', '/' + 1};
    struct store_bytes gap = keep_ca ? (struct store_bytes){ca_first, sizeof(ca_first)}
                                     : (struct store_bytes){ca_after, sizeof(ca_after)};
    struct byte_writer value, txn, command;
    uint8_t key[MEMBER_KEY_SIZE];
    byte_writer_init(&value);
    byte_writer_init(&txn);
    byte_writer_init(&command);
    member_key(key, self->id);
    member_record_encode(&value, self);
    struct store_op ops[3] = {
        {.kind = STORE_DELETE, .key = {first, 1}, .span = STORE_UNTIL, .end = gap},
        {.kind = STORE_DELETE,
         .key = {ca_after, sizeof(ca_after)},
         .span = STORE_UNTIL,
         .end = {after, 1}},
        {.kind = STORE_PUT, .key = {key, sizeof(key)}, .value = {value.data, value.length}},
    };
    struct store_txn both = {.then = ops, .then_count = 3};
    store_txn_encode(&txn, &both);
    store_command_txn(&command, txn.data, txn.length);
    int error = value.failed || txn.failed || command.failed
                    ? -ENOMEM
                    : store_machine_apply(machine, machine->applied + 1, command.data,
                                          command.length, NULL);
    byte_writer_free(&value);
    byte_writer_free(&txn);
    byte_writer_free(&command);
    return error;
}

static int write_log(const struct files *files, const struct store_machine *machine,
                     const struct wal_identity *identity, struct byte_writer *payload,
                     struct error *err)
{
    struct wal_options options;
    wal_options_default(&options, files);
    // Terms begin anew: what counts is that this cluster has another id.
    struct raft_snapshot snapshot = {
        .last = {machine->applied, 1},
        .configuration = {.count = 1, .members = {{identity->member, RAFT_VOTER}}},
    };
    return wal_create(&options, identity, &snapshot, payload->data, payload->length, err);
}

int member_restore(const char *directory, const struct member_record *self, const void *bytes,
                   size_t length, int (*change)(void *context, struct store_machine *machine),
                   void *context, struct error *err)
{
    struct store_machine *machine = NULL;
    struct store_snapshot *snapshot = NULL;
    struct wal_identity identity = {.member = self->id};
    struct byte_writer payload;
    struct files files;
    bool done = false;
    int error = decode_machine(bytes, length, &machine, err);
    if (error || !machine)
        return error;
    byte_writer_init(&payload);
    if (mkdir(directory, 0700) < 0 && errno != EEXIST)
        error = -errno;
    begin_revisions_anew(machine);
    if (!error && change)
        error = change(context, machine);
    if (!error)
        error = replace_members(machine, self, change != NULL);
    if (!error)
        error = random_bytes(identity.cluster, sizeof(identity.cluster));
    if (!error)
        error = store_snapshot_begin(&snapshot, machine);
    if (!error)
        error = store_snapshot_encode(snapshot, &payload, SIZE_MAX, &done);
    store_snapshot_end(snapshot);
    if (!error)
        error = files_posix_open(&files, directory);
    if (error && err->code) {
        // said already
    } else if (error) {
        error_set_errno(err, -error, "directory '%s' can't be made from the snapshot", directory);
    } else {
        error = write_log(&files, machine, &identity, &payload, err);
        files_posix_close(&files);
    }
    byte_writer_free(&payload);
    store_machine_destroy(machine);
    return error;
}
