#include "cluster/api/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"
#include "cluster/records/left.h"
#include "cluster/store/backup.h"

struct restoring {
    const struct member_options *options;
    uint64_t member; // its id
    uint32_t generation;
    struct error *err;
};

static int apply(struct store_machine *machine, const struct store_op *op)
{
    struct store_txn txn = {.then = op, .then_count = 1};
    struct byte_writer bytes, command;
    byte_writer_init(&bytes);
    byte_writer_init(&command);
    store_txn_encode(&bytes, &txn);
    store_command_txn(&command, bytes.data, bytes.length);
    int r = bytes.failed || command.failed
                ? -ENOMEM
                : store_machine_apply(machine, machine->applied + 1, command.data, command.length,
                                      NULL);
    byte_writer_free(&bytes);
    byte_writer_free(&command);
    return r;
}

static int put(struct store_machine *machine, const struct record_key *key,
               const union record_value *value)
{
    char name[RECORD_KEY_SIZE];
    record_key_format(key, name);
    char *text = record_encode(key->kind, value);
    if (!text)
        return -ENOMEM;
    struct store_op op = {
        .kind = STORE_PUT, .key = store_string(name), .value = store_string(text)};
    int r = apply(machine, &op);
    free(text);
    return r;
}

// Every generation is larger than those before, also of the same backup restored twice: it counts
// seconds, where clocks go on as they should.
static uint32_t next_generation(uint32_t old)
{
    uint64_t now = clock_realtime_ns() / NSEC_PER_SEC;
    return now > old && now <= UINT32_MAX ? (uint32_t)now : old + 1;
}

static int change_settings(struct restoring *restoring, struct store_machine *machine)
{
    struct record_key key = record_key_of(RECORD_SETTINGS, "");
    union record_value value;
    char name[RECORD_KEY_SIZE];
    record_key_format(&key, name);
    const struct mvcc_version *version = mvcc_newest(mvcc_find(&machine->mvcc, store_string(name)));
    if (!version)
        return error_set(restoring->err, ENOENT, "the backup is of no cluster that was set up");
    int r = record_decode(RECORD_SETTINGS, (struct store_bytes){version->value, version->length},
                          &value, restoring->err);
    if (r)
        return r;
    restoring->generation = next_generation(value.settings.generation);
    value.settings.generation = restoring->generation;
    value.settings.held = true;
    return put(machine, &key, &value);
}

// Nobody's, under an epoch above all that may be on disks. What memory there is may be stale.
static int free_owners(const struct restoring *restoring, struct store_machine *machine)
{
    struct store_bytes first = store_string(record_kind_prefix(RECORD_OWNER));
    struct mvcc_key *key = mvcc_lower_bound(&machine->mvcc, first);
    const struct record_view none = {0}; // all its hosts are lost
    for (; key; key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        struct record_key name;
        union record_value value, after = {0};
        if (key->key.length < first.length || memcmp(key->key.data, first.data, first.length) != 0)
            break;
        if (!version || record_key_parse(key->key, &name))
            continue;
        int r = record_decode(RECORD_OWNER, (struct store_bytes){version->value, version->length},
                              &value, restoring->err);
        if (r)
            return r;
        after.owner.epoch = generation_first_epoch(restoring->generation);
        after.owner.ran = value.owner.ran;
        left_hosts_add_owner(&none, &after.owner.left, &value.owner);
        record_free(RECORD_OWNER, &value);
        r = put(machine, &name, &after);
        if (r)
            return r;
    }
    return 0;
}

// Of the old hosts stays which they were: each has to report, by joining, or to be declared dead.
static int note_old_hosts(const struct restoring *restoring, struct store_machine *machine)
{
    struct store_bytes first = store_string(record_kind_prefix(RECORD_LIFE));
    struct mvcc_key *key = mvcc_lower_bound(&machine->mvcc, first);
    for (; key; key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        struct record_key name;
        union record_value value;
        if (key->key.length < first.length || memcmp(key->key.data, first.data, first.length) != 0)
            break;
        if (!version || record_key_parse(key->key, &name))
            continue;
        int r = record_decode(RECORD_LIFE, (struct store_bytes){version->value, version->length},
                              &value, restoring->err);
        value.life.fenced = value.life.unreported = true;
        value.life.declared_dead = false;
        if (!r)
            r = put(machine, &name, &value);
        if (r)
            return r;
    }
    return 0;
}

static int forget(struct store_machine *machine, enum record_kind kind)
{
    uint8_t end[RECORD_KEY_SIZE];
    const char *prefix = record_kind_prefix(kind);
    struct store_op op = {.kind = STORE_DELETE, .key = store_string(prefix), .span = STORE_UNTIL};
    op.end = (struct store_bytes){end, store_prefix_end(op.key, end)};
    return apply(machine, &op);
}

static int put_own(struct store_machine *machine, const char *key, size_t length, const char *text)
{
    struct store_op op = {.kind = text ? STORE_PUT : STORE_DELETE,
                          .key = {(const uint8_t *)key, length}};
    if (text)
        op.value = store_string(text);
    return apply(machine, &op);
}

// A CA of its own: the old one's key is in no backup, and no certificate of the old cluster, of a
// host or a client, is good for the new one.
static int make_tls(const struct restoring *restoring, struct store_machine *machine)
{
    struct certificate_pair ca = {0};
    struct uuid name;
    char text[UUID_TEXT_SIZE];
    int r = uuid_generate_random(&name);
    if (!r)
        r = certificate_make_ca(uuid_format(&name, text), &ca, restoring->err);
    if (!r)
        r = put_own(machine, MEMBER_CA_CERTIFICATE_KEY, sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1,
                    ca.certificate);
    // Backups of older versions have it.
    if (!r)
        r = put_own(machine, MEMBER_CA_KEY_KEY, sizeof(MEMBER_CA_KEY_KEY) - 1, NULL);
    if (!r)
        r = member_make_tls(restoring->options, &ca, restoring->member, restoring->err);
    certificate_pair_free(&ca);
    return r;
}

static int change(void *context, struct store_machine *machine)
{
    struct restoring *restoring = context;
    int r = change_settings(restoring, machine);
    if (!r)
        r = free_owners(restoring, machine);
    if (!r)
        r = forget(machine, RECORD_HOST);
    if (!r)
        r = note_old_hosts(restoring, machine);
    if (!r)
        r = forget(machine, RECORD_RENEWAL);
    if (!r)
        r = forget(machine, RECORD_MANAGER);
    if (!r && restoring->options->own_tls)
        return make_tls(restoring, machine);
    if (!r)
        r = put_own(machine, MEMBER_CA_CERTIFICATE_KEY, sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1,
                    NULL);
    return r ? r : put_own(machine, MEMBER_CA_KEY_KEY, sizeof(MEMBER_CA_KEY_KEY) - 1, NULL);
}

int restore_cluster(const struct member_options *options, const char *path, struct error *err)
{
    struct restoring restoring = {.options = options, .err = err};
    struct member_record self = {.wish = options->wish};
    const uint8_t *snapshot;
    size_t length;
    uint8_t *bytes = backup_read(path, &snapshot, &length, err);
    if (!bytes)
        return -err->code;
    member_fill_record(options, &self);
    int r = 0;
    while (!r && !self.id) {
        r = random_bytes(&self.id, sizeof(self.id));
        self.id &= INT64_MAX;
    }
    restoring.member = self.id;
    if (r)
        error_set_errno(err, -r, "no random numbers");
    else
        r = member_restore(options->directory, &self, snapshot, length, change, &restoring, err);
    free(bytes);
    return r;
}
