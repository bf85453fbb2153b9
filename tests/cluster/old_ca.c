// old_ca DIR NAME PEER CLIENT ROLE ...: the directories of a cluster as versions made them that
// kept the key of its CA in the store. ROLE is voter or learner. Each has a log that begins with a
// snapshot in which "\0ca/key" is; a certificate that carries no id; and no key in its tls.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"
#include "cluster/wal/files.h"

enum { WORDS = 5, MOST = 5 };

struct host {
    const char *directory;
    struct member_record record;
    uint8_t role;
};

static struct error err;

static int fail(const char *what, int error)
{
    fprintf(stderr, "old_ca: %s: %s\n", what, err.code ? err.message : strerror(-error));
    return 1;
}

static int put(struct store_machine *machine, uint32_t place, struct store_bytes key,
               struct store_bytes value)
{
    return mvcc_put(&machine->mvcc, 2, place, key, value, 0, NULL);
}

// What founding wrote: all of it as of revision 2 and entry 1.
static int encode(const struct host *hosts, unsigned count, const struct certificate_pair *ca,
                  struct byte_writer *w)
{
    static const char certificate[] = MEMBER_CA_CERTIFICATE_KEY, key[] = MEMBER_CA_KEY_KEY;
    struct store_machine *machine;
    struct store_snapshot *snapshot;
    bool done = false;
    int error = store_machine_create(&machine);
    for (unsigned i = 0; !error && i < count; i++) {
        uint8_t name[MEMBER_KEY_SIZE];
        struct byte_writer value;
        byte_writer_init(&value);
        member_key(name, hosts[i].record.id);
        member_record_encode(&value, &hosts[i].record);
        error = put(machine, i, (struct store_bytes){name, sizeof(name)},
                    (struct store_bytes){value.data, value.length});
        byte_writer_free(&value);
    }
    if (!error)
        error = put(machine, count,
                    (struct store_bytes){(const uint8_t *)certificate, sizeof(certificate) - 1},
                    store_string(ca->certificate));
    if (!error)
        error = put(machine, count + 1, (struct store_bytes){(const uint8_t *)key, sizeof(key) - 1},
                    store_string(ca->key));
    machine->mvcc.revision = 2;
    machine->applied = 1;
    if (!error)
        error = store_snapshot_begin(&snapshot, machine);
    while (!error && !done)
        error = store_snapshot_encode(snapshot, w, SIZE_MAX, &done);
    return error;
}

static int write_tls(const struct host *host, const struct certificate_pair *ca)
{
    const struct certificate_subject subject = {.name = host->record.name, .seconds = 1000000};
    struct certificate_pair request = {0};
    char *own = NULL;
    int r = certificate_make_request(host->record.name, &request, &err);
    if (!r)
        r = certificate_sign(ca, request.certificate, &subject, &own, &err);
    if (!r)
        r = member_write_tls_file(host->directory, "host.key", request.key, &err);
    if (!r)
        r = member_write_tls_file(host->directory, "host.pem", own, &err);
    if (!r)
        r = member_write_tls_file(host->directory, "ca.pem", ca->certificate, &err);
    certificate_pair_free(&request);
    free(own);
    return r;
}

static int write_host(const struct host *host, const struct raft_snapshot *first,
                      const struct byte_writer *payload, const struct certificate_pair *ca)
{
    struct wal_identity identity = {.member = host->record.id, .cluster = {1, 2, 3}};
    struct wal_options options;
    struct files files;
    if (mkdir(host->directory, 0700) != 0 && errno != EEXIST)
        return -errno;
    int r = write_tls(host, ca);
    if (!r)
        r = files_posix_open(&files, host->directory);
    if (r)
        return r;
    wal_options_default(&options, &files);
    r = wal_create(&options, &identity, first, payload->data, payload->length, &err);
    files_posix_close(&files);
    return r;
}

int main(int argc, char **argv)
{
    struct host hosts[MOST] = {0};
    struct raft_snapshot first = {.last = {1, 1}};
    struct certificate_pair ca = {0};
    struct byte_writer payload;
    unsigned count = (unsigned)(argc - 1) / WORDS;
    if (count == 0 || count > MOST || (argc - 1) % WORDS)
        return 2;
    for (unsigned i = 0; i < count; i++) {
        char **words = argv + 1 + WORDS * i;
        bool voter = strcmp(words[4], "voter") == 0;
        hosts[i].directory = words[0];
        hosts[i].record.id = 0x1000 + i;
        hosts[i].record.wish = voter ? MEMBER_WISH_VOTER : MEMBER_WISH_LEARNER;
        snprintf(hosts[i].record.name, sizeof(hosts[i].record.name), "%s", words[1]);
        snprintf(hosts[i].record.peer, sizeof(hosts[i].record.peer), "%s", words[2]);
        snprintf(hosts[i].record.client, sizeof(hosts[i].record.client), "%s", words[3]);
        first.configuration.members[i] =
            (struct raft_member){hosts[i].record.id, voter ? RAFT_VOTER : RAFT_LEARNER};
    }
    first.configuration.count = count;
    int r = certificate_make_ca("old", &ca, &err);
    if (r)
        return fail("the CA", r);
    byte_writer_init(&payload);
    r = encode(hosts, count, &ca, &payload);
    if (r)
        return fail("the snapshot", r);
    for (unsigned i = 0; i < count; i++) {
        r = write_host(&hosts[i], &first, &payload, &ca);
        if (r)
            return fail(hosts[i].directory, r);
    }
    return 0;
}
