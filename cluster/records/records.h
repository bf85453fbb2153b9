// What the cluster keeps in the store about hosts and machines: keys, values, and changes of them.
//
// Values are JSON objects with "v", the version of their form; a reader takes what it knows and
// leaves alone what it doesn't (docs/cluster.md has the table). Every step function of the cluster
// (agent.h, manager.h) reads `struct record`s and hands out `struct change`s; only the drivers know
// of bytes, so that the simulator runs the same steps.
//
// What always holds:
//   - One record says who may run a machine: its owner record. Every start and every change of
//     owner is a compare-and-set of it with a larger epoch.
//   - A host's life record changes only when the host registers (a larger incarnation) or is
//     fenced. Its renewals and its fence exclude each other, since each compares what the other
//     writes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/ids.h"
#include "cluster/store/store.h"

enum { RECORD_NAME_SIZE = 65, RECORD_TEXT_SIZE = 200, RECORD_ADDRESS_SIZE = 280 };

enum record_kind {
    RECORD_SETTINGS,  // of the cluster: one
    RECORD_MANAGER,   // who manages: one
    RECORD_HOST,      // by host name: what it has
    RECORD_LIFE,      // by host name: its incarnation, and whether it is fenced
    RECORD_RENEWAL,   // by host name: that it is there
    RECORD_MACHINE,   // by UUID: what is wanted
    RECORD_OWNER,     // by UUID: who may run it
    RECORD_STATE,     // by UUID: what was seen of it last; says nothing about who may run it
    RECORD_NAME,      // by machine name: its UUID
    RECORD_TOMBSTONE, // by UUID: it is to go
    RECORD_REQUEST,   // by a client's request id: the UUID that came of it
    RECORD_REFUSED,   // by the digest of a certificate: it was that of a host that was removed
    RECORD_KINDS
};

struct record_key {
    enum record_kind kind;
    char name[RECORD_NAME_SIZE]; // "" where there is one
};

struct settings_record {
    char cluster[UUID_TEXT_SIZE];
    uint32_t generation;            // the epochs' high half begins with it
    uint64_t lease_ns, deadline_ns; // L and D of docs/cluster.md
    uint64_t renew_ns, stop_ns;     // between renewals; T_stop
    uint32_t drift_ppm;             // rho
    // Restored from a backup: nothing is started until a person says that no host of the old
    // cluster runs anything any more.
    bool held;
};

// Epochs of a generation are larger than all of the earlier ones.
static inline uint64_t generation_first_epoch(uint32_t generation)
{
    return (uint64_t)generation << 32;
}

struct manager_record {
    char host[NAME_LIMIT + 1];
    char instance[UUID_TEXT_SIZE]; // of the daemon
    uint64_t count;                // grows while it manages
};

struct host_record {
    char address[RECORD_ADDRESS_SIZE]; // where its store client port is, for people
    char version[32];
    uint32_t cpus;
    uint64_t memory; // bytes that machines may have
    bool draining;
    bool client; // a client host: the store isn't to be found there
    // Its certificate, as tls_subject_is() has it; "": there are none, or it is an older version.
    char certificate[80];
    char *facts; // what else placement looks at: a JSON object; owned, may be NULL
};

struct life_record {
    uint64_t incarnation;
    char identity[UUID_TEXT_SIZE]; // of the host's data directory: no other may take the name
    char boot_id[UUID_TEXT_SIZE];
    bool fenced;
    // A person has said that it is gone for sure, after it was fenced: nothing of it runs any more,
    // not even what has no deadline. Ends with its next registration.
    bool declared_dead;
    // It was a host of the cluster that a backup was made of, and hasn't joined since that was
    // restored: what still runs there isn't known. It is fenced as well.
    bool unreported;
};

struct renewal_record {
    uint64_t incarnation;
    uint64_t count;
};

enum machine_wish { WISH_STOPPED, WISH_RUNNING };
enum restart_policy { RESTART_ALWAYS, RESTART_ON_FAILURE, RESTART_NEVER };

struct machine_record {
    char name[NAME_LIMIT + 1];
    enum machine_wish wish;
    enum restart_policy restart;
    // Its processes have no deadline, and it isn't started elsewhere until a person says that they
    // are gone. Never changes.
    bool no_ha;
    uint32_t cpus;
    uint64_t memory;
    uint64_t wish_number;         // grows with each change of the wish
    char host[NAME_LIMIT + 1];    // the only host it may run on; "" any
    char move_to[NAME_LIMIT + 1]; // a migration that is asked for: its target
    uint64_t move_asked;          // and the store's revision when it was: the oldest goes first
    char cancel[UUID_TEXT_SIZE];  // the id of a migration that is to be called off
    char *description;            // what `ferry run --config` reads; owned, may be NULL
    char *placement; // what it asks of its host (cluster/manager/wishes.h); owned, may be NULL
};

enum owner_stage {
    OWNER_NONE,     // nobody's
    OWNER_ASSIGNED, // the host may start it, under a larger epoch
    OWNER_STARTED,  // one process of this epoch may run
};

enum migration_stage {
    MIGRATION_NONE,
    MIGRATION_RESERVED,  // a manager has chosen the target
    MIGRATION_INCOMING,  // the target waits for it at `address`
    MIGRATION_SWITCHING, // the source may stand still at any time
    MIGRATION_DONE,      // the target is the owner; the source keeps its copy until it has started
    MIGRATION_ABORTED,   // the source stays the owner
};

struct migration_record {
    enum migration_stage stage;
    char id[UUID_TEXT_SIZE];
    char target[NAME_LIMIT + 1];
    uint64_t target_incarnation;
    char source[NAME_LIMIT + 1]; // from MIGRATION_DONE on
    uint64_t source_incarnation;
    char address[RECORD_ADDRESS_SIZE];
    char token[80];
    uint32_t tries; // in a row that a drain has made, this one included; 0: a person's
};

// cluster/records/left.h
enum { LEFT_HOSTS = 8 };
struct left_host {
    char host[NAME_LIMIT + 1];
    uint64_t incarnation;
};
struct left_hosts {
    unsigned count;
    struct left_host hosts[LEFT_HOSTS];
};

struct owner_record {
    enum owner_stage stage;
    char host[NAME_LIMIT + 1]; // "" with OWNER_NONE
    uint64_t incarnation;
    uint64_t epoch;
    // The epoch whose memory was the machine's when nobody was its owner any more: what a process
    // of this or of the present epoch holds may go on, everything older is stale. 0: none is kept.
    uint64_t kept_epoch;
    // OWNER_STARTED: the process of this epoch has no deadline, so that a fence says nothing of it.
    bool unbounded;
    bool ran;                  // it has run some time: its disks have their epoch files
    char home[NAME_LIMIT + 1]; // the host that had started it before; "" none
    struct left_hosts left;    // those that may have something of it yet
    struct migration_record migration;
};

struct state_record {
    char state[24]; // starting, running, stopped, failed, lost, pending
    char host[NAME_LIMIT + 1];
    char reason[RECORD_TEXT_SIZE];
    uint64_t since_ms; // CLOCK_REALTIME
    uint32_t restarts;
};

struct refused_record {
    char host[RECORD_NAME_SIZE];
};

struct uuid_record { // RECORD_NAME, RECORD_REQUEST
    char uuid[UUID_TEXT_SIZE];
};

struct tombstone_record {
    uint64_t epoch; // nothing of a later one ever ran; known for good when the owner record is gone
    char name[NAME_LIMIT + 1]; // the index that goes with it
    // When the machine's other records are gone: who has to confirm its end yet.
    struct left_hosts left;
    char reason[RECORD_TEXT_SIZE]; // why the last one that didn't confirm needn't any more; or ""
};

union record_value {
    struct settings_record settings;
    struct manager_record manager;
    struct host_record host;
    struct life_record life;
    struct renewal_record renewal;
    struct machine_record machine;
    struct owner_record owner;
    struct state_record state;
    struct uuid_record uuid;
    struct tombstone_record tombstone;
    struct refused_record refused;
};

struct record {
    struct record_key key;
    uint64_t mod; // revision of its last change; 0: it isn't there
    union record_value value;
};

// ---- keys and values as bytes ----

enum { RECORD_KEY_SIZE = 24 + RECORD_NAME_SIZE };

#define RECORD_PREFIX "ferry/" // of all of them

struct record_key record_key_of(enum record_kind kind, const char *name);
// The store's key, terminated.
void record_key_format(const struct record_key *key, char out[RECORD_KEY_SIZE]);
// 0, or -EINVAL for a key that isn't one of ours.
int record_key_parse(struct store_bytes bytes, struct record_key *key);
// "ferry/hosts/" of RECORD_HOST: where all records of a kind are.
const char *record_kind_prefix(enum record_kind kind);

// JSON text, to be freed; NULL without memory.
char *record_encode(enum record_kind kind, const union record_value *value);
// 0, or a sentence: no JSON, of a newer major form, a field missing or of the wrong type. What the
// value owns is given back by record_free().
int record_decode(enum record_kind kind, struct store_bytes bytes, union record_value *value,
                  struct error *err);
void record_free(enum record_kind kind, union record_value *value);
// A copy that owns what it points to: 0 or -ENOMEM.
int record_copy(enum record_kind kind, const union record_value *from, union record_value *to);

const char *owner_stage_name(enum owner_stage stage);
const char *migration_stage_name(enum migration_stage stage);
const char *wish_name(enum machine_wish wish);
const char *restart_policy_name(enum restart_policy policy);
int restart_policy_parse(const char *text, enum restart_policy *policy);

// ---- changes ----

// A transaction on records: all compares hold, or nothing is done. A record that isn't there has
// the revision 0.
enum { CHANGE_COMPARES = 6, CHANGE_PUTS = 6 };

struct change_compare {
    struct record_key key;
    uint64_t mod;
};

struct change_put {
    struct record_key key;
    bool remove;
    union record_value value; // owns nothing: what it points to stays the caller's
};

struct change {
    unsigned compare_count, put_count;
    struct change_compare compares[CHANGE_COMPARES];
    struct change_put puts[CHANGE_PUTS];
};

enum change_outcome {
    CHANGE_COMMITTED,
    CHANGE_REFUSED, // nothing was done and never will be: something had changed
    CHANGE_UNKNOWN, // it may have been, or may yet be, done (or the store said no): gives no right
};

void change_clear(struct change *change);
void change_compare(struct change *change, enum record_kind kind, const char *name, uint64_t mod);
// The value to fill in; it is zero.
union record_value *change_put(struct change *change, enum record_kind kind, const char *name);
void change_remove(struct change *change, enum record_kind kind, const char *name);

// ---- what the rules say about hosts ----

// Whether this incarnation can't run anything any more: it is fenced, or the host registered anew,
// which it does only after a boot or a fence.
static inline bool life_is_over(const struct life_record *life, uint64_t incarnation)
{
    return life->incarnation > incarnation || (life->incarnation == incarnation && life->fenced);
}

// 0 if the time-outs keep the promise (docs/cluster.md), or a sentence: D/(1-rho) + T_stop <
// L/(1+rho), and L at least four times the largest election time-out.
int settings_check(const struct settings_record *settings, uint64_t election_max_ns,
                   struct error *err);
// L = 10 s, D = 8 s, T_stop = 1 s, rho = 0.001, a renewal a second.
void settings_default(struct settings_record *settings);
