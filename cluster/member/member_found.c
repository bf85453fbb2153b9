// Founding and joining: a member's directory, before there is a member.
//
// Where `own_tls` is set the certificates are the cluster's: whoever founds it makes the CA, whose
// key stays with the voters (member_ca.c); whoever joins gets one for a key that never leaves here.
// They are in the directory's "tls", written before the log: a directory with a log has them.
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cluster/member/certificates.h"
#include "cluster/member/client_host_file.h"
#include "cluster/member/member_internal.h"
#include "cluster/store/store_admin.h"

enum { JOIN_TIMEOUT_SECONDS = 5, DIGEST_BYTES = 32 };

// ---- files beside the log ----

int member_write_file(const char *directory, const char *name, const char *text, struct error *err)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", directory, name);
    int m = snprintf(temporary, sizeof(temporary), "%s/%s.new", directory, name);
    if (n < 0 || m < 0 || (size_t)m >= sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "'%s': the path is too long", directory);
    size_t length = strlen(text);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "'%s' can't be made", temporary);
    ssize_t done = write(fd, text, length);
    int error = done < 0 ? errno : done != (ssize_t)length ? ENOSPC : fsync(fd) ? errno : 0;
    close(fd);
    if (!error && rename(temporary, path))
        error = errno;
    int dir = error ? -1 : open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        error = fsync(dir) ? errno : 0;
        close(dir);
    }
    if (error)
        unlink(temporary);
    return error ? error_set_errno(err, error, "'%s' can't be written", path) : 0;
}

int member_write_tls_file(const char *directory, const char *name, const char *text,
                          struct error *err)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/tls", directory);
    if (n < 0 || (size_t)n >= sizeof(path))
        return error_set(err, ENAMETOOLONG, "'%s': the path is too long", directory);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "'%s' can't be made", path);
    return member_write_file(path, name, text, err);
}

// `own` is the member's, followed by the CA's.
static int write_tls(const char *directory, const char *ca, const char *own, const char *key,
                     struct error *err)
{
    int r = member_write_tls_file(directory, "host.key", key, err);
    if (!r)
        r = member_write_tls_file(directory, "host.pem", own, err);
    return r ? r : member_write_tls_file(directory, "ca.pem", ca, err);
}

// ---- the first log ----

static int new_id(uint64_t *id, struct error *err)
{
    *id = 0;
    while (*id == 0) {
        int error = random_bytes(id, sizeof(*id));
        if (error)
            return error_set_errno(err, -error, "no random numbers");
        *id &= INT64_MAX;
    }
    return 0;
}

static int put_ca(struct mvcc *mvcc, const struct certificate_pair *ca)
{
    const struct store_bytes certificate = {(const uint8_t *)MEMBER_CA_CERTIFICATE_KEY,
                                            sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1};
    return mvcc_put(mvcc, 2, 1, certificate, store_string(ca->certificate), 0, NULL);
}

// A joining member's state is empty, as of index 0. A founder's holds its own record, so it is as
// of index 1: whoever joins needs a snapshot to begin with, and can't take its own emptiness for
// that.
static int encode_first_machine(const struct member_record *self, const struct certificate_pair *ca,
                                struct byte_writer *w)
{
    struct store_machine *machine;
    struct store_snapshot *snapshot;
    uint8_t key[MEMBER_KEY_SIZE];
    struct byte_writer value;
    bool done = false;
    int error = store_machine_create(&machine);
    if (error)
        return error;
    byte_writer_init(&value);
    if (self->id) {
        member_key(key, self->id);
        member_record_encode(&value, self);
        error = mvcc_put(&machine->mvcc, 2, 0, (struct store_bytes){key, sizeof(key)},
                         (struct store_bytes){value.data, value.length}, 0, NULL);
        if (!error && ca)
            error = put_ca(&machine->mvcc, ca);
        machine->mvcc.revision = 2;
        machine->applied = 1;
    }
    if (!error)
        error = store_snapshot_begin(&snapshot, machine);
    if (!error) {
        while (!error && !done)
            error = store_snapshot_encode(snapshot, w, SIZE_MAX, &done);
        store_snapshot_end(snapshot);
    }
    byte_writer_free(&value);
    store_machine_destroy(machine);
    return error;
}

static int create_log(const struct wal_options *options, const struct wal_identity *identity,
                      const struct raft_snapshot *first, const struct member_record *founder,
                      const struct certificate_pair *ca, struct error *err)
{
    struct byte_writer payload;
    byte_writer_init(&payload);
    int error = encode_first_machine(founder, ca, &payload);
    if (error)
        error_set_errno(err, -error, "the first snapshot can't be made");
    else
        error = wal_create(options, identity, first, payload.data, payload.length, err);
    byte_writer_free(&payload);
    return error;
}

// ---- founding ----

int member_make_tls(const struct member_options *options, const struct certificate_pair *ca,
                    uint64_t member_id, struct error *err)
{
    char id[17];
    snprintf(id, sizeof(id), "%016" PRIx64, member_id);
    const struct certificate_subject subject = {
        .name = options->name, .id = id, .seconds = options->certificate_seconds};
    struct certificate_pair request = {0};
    char *own = NULL;
    int r = certificate_make_request(options->name, &request, err);
    if (!r)
        r = certificate_sign(ca, request.certificate, &subject, &own, err);
    if (!r)
        r = write_tls(options->directory, ca->certificate, own, request.key, err);
    if (!r)
        r = member_write_tls_file(options->directory, "ca.key", ca->key, err);
    certificate_pair_free(&request);
    free(own);
    return r;
}

int member_found(struct member *member, const struct wal_options *options, struct error *err)
{
    struct wal_identity identity;
    struct certificate_pair ca = {0};
    struct uuid cluster;
    int error = new_id(&identity.member, err);
    if (!error && uuid_generate_random(&cluster))
        error = error_set(err, EIO, "no random numbers");
    if (error)
        return error;
    memcpy(identity.cluster, cluster.bytes, sizeof(identity.cluster));
    struct raft_snapshot first = {
        .last = {1, 1},
        .configuration = {.count = 1, .members = {{identity.member, RAFT_VOTER}}},
    };
    member->self.id = identity.member;
    if (member->options.own_tls) {
        char text[UUID_TEXT_SIZE];
        error = certificate_make_ca(uuid_format(&cluster, text), &ca, err);
        if (!error)
            error = member_make_tls(&member->options, &ca, identity.member, err);
    }
    if (!error)
        error = create_log(options, &identity, &first, &member->self,
                           member->options.own_tls ? &ca : NULL, err);
    certificate_pair_free(&ca);
    return error;
}

// ---- joining ----

// "joining" in the directory: under which id, by the token of which digest. Whoever was killed
// before the answer came asks again as the same member; another token, or another directory, makes
// another member.
static int obtain_id(struct member *member, const char *secret, struct error *err)
{
    char path[PATH_MAX], line[128] = "", digits[2 * DIGEST_BYTES + 1], text[160];
    uint8_t digest[DIGEST_BYTES];
    uint64_t id = 0;
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), digest) < 0)
        return error_set(err, EIO, "no SHA-256");
    for (int i = 0; i < DIGEST_BYTES; i++)
        snprintf(digits + 2 * i, 3, "%02x", digest[i]);
    snprintf(path, sizeof(path), "%s/joining", member->options.directory);
    FILE *in = fopen(path, "re");
    if (in) {
        if (fgets(line, sizeof(line), in) && strlen(line) > 17 &&
            strncmp(line + 17, digits, sizeof(digits) - 1) == 0)
            id = strtoull(line, NULL, 16);
        fclose(in);
    }
    member->self.id = id;
    if (id)
        return 0;
    int r = new_id(&member->self.id, err);
    if (r)
        return r;
    snprintf(text, sizeof(text), "%016" PRIx64 " %s\n", member->self.id, digits);
    return member_write_file(member->options.directory, "joining", text, err);
}

static int open_client(struct member *member, const char *address, const uint8_t *pin,
                       struct store_client **client, struct error *err)
{
    const struct member_options *o = &member->options;
    int error = store_client_create(client, address, err);
    if (error)
        return error;
    store_client_set_timeout(*client, JOIN_TIMEOUT_SECONDS * NSEC_PER_SEC);
    if (pin)
        error = store_client_set_pin(*client, pin, err);
    else if (o->tls_ca)
        error = store_client_set_tls(*client, o->tls_certificate, o->tls_key, o->tls_ca, err);
    if (!error && o->tls_name)
        error = store_client_set_tls_name(*client, o->tls_name, err);
    if (error)
        store_client_destroy(*client);
    return error;
}

// Who is a member. Whoever has joined and isn't among them is a client host.
static int take_members(struct member *member, struct byte_reader *answer,
                        struct client_host_file *file, struct error *err)
{
    struct member_record other;
    byte_reader_bytes(answer, file->cluster, sizeof(file->cluster));
    unsigned count = byte_reader_u16(answer);
    file->id = member->self.id;
    member->is_client_host = true;
    for (unsigned i = 0; i < count; i++) {
        if (!member_record_read(answer, &other))
            return error_set(err, EBADMSG, "the answer can't be understood");
        client_host_file_add(file, other.client);
        if (other.id == member->self.id)
            member->is_client_host = false;
    }
    return answer->failed ? error_set(err, EBADMSG, "the answer can't be understood") : 0;
}

// What came for the request: certificate and CA.
static int take_certificate(struct member *member, struct byte_reader *answer, const char *key,
                            struct error *err)
{
    size_t own_length = 0, ca_length = 0;
    const uint8_t *own = byte_reader_blob(answer, 2 * CERTIFICATE_TEXT_MAX, &own_length);
    const uint8_t *ca = byte_reader_blob(answer, CERTIFICATE_TEXT_MAX, &ca_length);
    if (!own || !ca)
        return error_set(err, EBADMSG, "the answer can't be understood");
    char *own_text = strndup((const char *)own, own_length);
    char *ca_text = strndup((const char *)ca, ca_length);
    int r = own_text && ca_text ? write_tls(member->options.directory, ca_text, own_text, key, err)
                                : error_set(err, ENOMEM, "out of memory");
    free(own_text);
    free(ca_text);
    return r;
}

// One of an older version knows of no client hosts, and makes a member of whoever leaves it open.
static enum store_status send_request(struct member *member, struct store_client *client,
                                      const char *secret, const char *csr,
                                      struct byte_reader *answer, struct error *err)
{
    enum member_wish wish = member->self.wish;
    enum store_status status = STORE_BUSY;
    for (int i = 0; i < 2; i++) {
        struct byte_writer body;
        byte_writer_init(&body);
        byte_writer_string(&body, secret);
        if (csr)
            byte_writer_string(&body, csr);
        member_record_encode(&body, &member->self);
        if (!body.failed)
            status = store_client_request(client, csr ? REQUEST_ENROL : REQUEST_JOIN, body.data,
                                          body.length, answer, err);
        byte_writer_free(&body);
        if (status != STORE_INVALID || member->self.wish != MEMBER_WISH_ANY)
            break;
        member->self.wish = MEMBER_WISH_AUTO;
    }
    member->self.wish = wish;
    return status;
}

static int ask_to_join(struct member *member, const char *secret, const char *address,
                       const uint8_t *pin, struct client_host_file *file, struct error *err)
{
    struct store_client *client;
    struct certificate_pair request = {0};
    struct byte_reader answer;
    enum store_status status = STORE_BUSY;
    int error = open_client(member, address, pin, &client, err);
    if (error)
        return error;
    if (pin)
        error = certificate_make_request(member->self.name, &request, err);
    if (!error)
        status = send_request(member, client, secret, request.certificate, &answer, err);
    if (!error && status == STORE_DENIED)
        error = error_set(err, EACCES, "the token is wrong, used already, or expired");
    else if (!error && status == STORE_UNKNOWN)
        error = error_set(err, EAGAIN,
                          "no answer from %s: try again with the same token (if this host was let "
                          "in, it still is)",
                          address);
    else if (!error && status == STORE_MEMBERS_ENOUGH)
        error = error_set(err, EBUSY, "%s: join as a client host (--role client)",
                          store_status_text(status));
    else if (!error && status == STORE_INVALID && member->self.wish == MEMBER_WISH_CLIENT)
        error = error_set(err, EPROTONOSUPPORT,
                          "%s at %s: the cluster's version of ferry may know of no client hosts",
                          store_status_text(status), address);
    else if (!error && status != STORE_OK && status != STORE_NO_LEADER)
        error = error_set(err, EAGAIN, "%s at %s", store_status_text(status), address);
    else if (!error && status != STORE_OK)
        error = err->code ? error_prefix(err, "%s", address)
                          : error_set(err, EAGAIN, "%s at %s", store_status_text(status), address);
    if (!error) {
        byte_reader_u8(&answer);
        byte_reader_u64(&answer);
        error = take_members(member, &answer, file, err);
    }
    if (!error && pin)
        error = take_certificate(member, &answer, request.key, err);
    certificate_pair_free(&request);
    store_client_destroy(client);
    return error;
}

int member_join(struct member *member, const struct wal_options *options, struct error *err)
{
    const struct member_options *o = &member->options;
    const char *at = strchr(o->join, '@');
    struct wal_identity identity;
    uint8_t pin[TLS_FINGERPRINT_BYTES];
    char secret[STORE_SECRET_SIZE];
    if (!at)
        return error_set(err, EINVAL, "'%s': where to join is missing: TOKEN@HOST:PORT", o->join);
    size_t length = (size_t)(at - o->join);
    int error = o->own_tls ? store_token_split(o->join, length, secret, pin, err)
                           : store_token_parse(o->join, length, o->tls_ca, secret, err);
    if (!error)
        error = obtain_id(member, secret, err);
    if (error)
        return error;
    identity.member = member->self.id;
    struct client_host_file file = {.count = 0};
    error = ask_to_join(member, secret, at + 1, o->own_tls ? pin : NULL, &file, err);
    if (error)
        return error;
    if (member->is_client_host)
        return client_host_file_save(&file, o->directory, err);
    memcpy(identity.cluster, file.cluster, sizeof(identity.cluster));
    // Nobody is known yet: the leader calls, as it knows this member's address now.
    struct raft_snapshot first = {.last = {0, 0}};
    struct member_record nobody = {.id = 0};
    return create_log(options, &identity, &first, &nobody, NULL, err);
}
