// A member of the cluster: a Raft core, its log on a disk, the store, peers and clients, on one
// libuv loop.
//
// Threads: everything runs on the loop's thread but the log's own two (wal_thread.h) and the
// decoding of a received snapshot. So nothing here waits for a disk: heartbeats go out whatever it
// does.
//
// Who is a member is decided by the store: each has a record under a key of the cluster's own. The
// leader changes Raft's configuration step by step until it is what the records say: first all that
// are new become learners, and those that have caught up become voters if they wish, together with
// all removals, in one joint change.
//
// A member's id is random and made when its directory is founded or joins; whoever lost the
// directory joins again, as somebody else.
#pragma once

#include <uv.h>

#include "base/error.h"
#include "cluster/member/protocol.h"
#include "cluster/wal/files.h"

struct connection;
struct connection_callbacks;
// What client's certificates say in their unit, and how long they may be good for.
#define MEMBER_UNIT_READ_ONLY "read-only"
// And those of client hosts.
#define MEMBER_UNIT_CLIENT_HOST "client-host"
enum { MEMBER_CLIENT_SECONDS_MAX = 10 * 365 * 24 * 3600 };

struct member;
struct store_machine;
struct tls_subject;

struct member_options {
    const char *directory;
    const char *name;
    const char *listen_peer;      // "HOST:PORT"
    const char *listen_client[4]; // "HOST:PORT", "unix:PATH"; the first one is what others are told
    unsigned listen_client_count;
    const char *advertise_peer; // NULL: as listened on
    const char *advertise_client;
    bool found;            // begins a new cluster if the directory is empty
    const char *join;      // "TOKEN@ADDRESS": joins one if the directory is empty
    enum member_wish wish; // of one that founds or joins
    // Certificates are the cluster's own, in the directory's "tls": made while founding or joining.
    // Then tls_certificate etc. are set once they are there.
    bool own_tls;
    const char *tls_certificate, *tls_key, *tls_ca; // all or none
    const char
        *tls_name; // what other members' certificates must be for; NULL: any of the CA will do
    uint64_t certificate_seconds; // that hosts' certificates are made for
    // Clients' certificates are good for `remote` alone: else they may do here what hosts may.
    bool hosts_only;
    // Takes a connection over that speaks PROTOCOL_CONTROL or PROTOCOL_STREAM. `refusal` says why
    // its certificate isn't good for that; NULL if it is. NULL: neither is spoken here.
    void (*remote)(void *context, struct connection *connection, const struct tls_subject *subject,
                   const char *refusal);
    void *remote_context;
    uint64_t heartbeat_ns, election_min_ns, election_max_ns;
    uint64_t memory_limit;     // bytes of the store; beyond it only deletes
    uint64_t snapshot_entries; // a snapshot after so many
    uint64_t history;          // revisions kept by automatic compaction; 0: it is off
    size_t segment_bytes;
    uint32_t newest_command; // STORE_COMMAND_VERSION, but for tests of upgrades
    // Stands in for the directory's files, in tests; NULL: the real ones.
    struct files *files;
    // The member has ended by itself: 0 was removed, else an errno. NULL: nothing is called.
    void (*ended)(void *context, int error);
    void *context;
};

// 100 ms heartbeat, 1 to 2 s election, 1 GiB, 50,000 entries, 100,000 revisions, 16 MiB segments.
void member_options_default(struct member_options *options);

// What can be told of them before there is a member: 0, or a sentence that says what is wrong.
int member_options_check(const struct member_options *options, struct error *err);
// Whether the directory holds a member's log, sound or not.
bool member_exists(const char *directory);
// Founds or joins if the directory is empty, and nothing else. -ENOENT if it is empty and neither
// was asked for. Joining waits for the cluster's answer.
int member_prepare(const struct member_options *options, struct error *err);
// Opens the directory (founding or joining first, if it is empty) and starts. Joining waits for the
// cluster's answer.
int member_start(struct member **member, uv_loop_t *loop, const struct member_options *options,
                 struct error *err);
// Why a certificate isn't good, for people; NULL if it is. And why not any more for a connection
// that began when it was: that may become so at any time.
const char *member_certificate_fault(struct member *member, const struct tls_subject *subject);
const char *member_certificate_fault_later(struct member *member,
                                           const struct tls_subject *subject);
// A connection to another host's address for clients that speaks PROTOCOL_STREAM, as this host.
// NULL: there is no TLS, or no such address.
struct connection *member_dial_stream(struct member *member, const char *address,
                                      const struct connection_callbacks *callbacks, void *owner);
// Closes everything; the loop must run until its handles are closed. Then member_free().
void member_stop(struct member *member);
void member_free(struct member *member);

// Makes a directory of a new one-member cluster out of a snapshot of another (`ferry store
// snapshot`): its keys and leases, none of its members. `bytes` is the snapshot. `change` (NULL:
// none) may change what is in it; then the cluster's CA is kept as well.
int member_restore(const char *directory, const struct member_record *self, const void *bytes,
                   size_t length, int (*change)(void *context, struct store_machine *machine),
                   void *context, struct error *err);
// What a member with these options says of itself, but its id.
void member_fill_record(const struct member_options *options, struct member_record *record);
