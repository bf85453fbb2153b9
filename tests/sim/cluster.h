// One simulated Raft cluster: members, clients, network, disks, faults and the checks, in one
// process and thread.
//
// The parts: member.c drives one core as its owner would; client.c is the clients; faults.c breaks
// things; checker.c judges after every event; cluster.c founds it all and decides when a run is
// over.
#pragma once

#include "counters.h"
#include "host.h"
#include "journal.h"
#include "linearize.h"
#include "machine.h"
#include "plan.h"

#define SIM_MEMBERS     16
#define SIM_CLIENTS     8
#define SIM_CLIENT_NODE 16 // the network node of the first client
#define SIM_CONFIGS     64 // configurations in one log that are remembered

struct sim_cluster;

// What owners of a core, not the core itself, may do wrong: proof that the judge sees that as well.
#define SIM_OWNER_MUTANTS(X)                                                                       \
    X(SYNC_ERROR_IGNORED, "goes on after a failed sync")                                           \
    X(WRITTEN_TOO_EARLY, "reports writes as durable that aren't synced yet")                       \
    X(EMPTY_DISK_OLD_ID, "comes back under its old id when its disk is lost")                      \
    X(RETRY_APPLIED_TWICE, "applies a command again when a client sends it again")                 \
    X(APPLY_DIFFERS, "applies some commands in its own way")                                       \
    X(SNAPSHOT_MISLABELLED, "names a snapshot by the entry before its last")

enum sim_owner_mutant {
    SIM_OWNER_SOUND,
#define SIM_OWNER_ENUM(name, what) SIM_OWNER_##name,
    SIM_OWNER_MUTANTS(SIM_OWNER_ENUM)
#undef SIM_OWNER_ENUM
        SIM_OWNER_COUNT
};

// The voters of a configuration as bits of members' slots.
struct sim_voters {
    uint32_t fresh, old, learners; // old: only in a joint one
};

// What the checker saw of a member when it last looked.
struct sim_view {
    enum raft_role role;
    uint64_t term, voted_for, commit, applied;
    struct raft_position last, before;
    struct sim_voters voters;
    uint64_t configuration_index;
};

struct sim_logged_configuration {
    uint64_t index;
    struct sim_voters voters;
};

// Counted in the member's own ticks since its start.
struct sim_times {
    uint64_t ticks, led_since, led_term, configuration_index;
    uint64_t
        beat[SIM_MEMBERS]; // number of the event of the last heartbeat reply of the current term
    uint64_t heard[SIM_MEMBERS]; // when it last had a reply of the current term from that slot
    uint32_t quiet_ticks;        // since a leader or a granted vote gave reason not to campaign
    uint32_t write_ticks, transfer_ticks;
    uint64_t write, transfer_target;
    bool vote_missed; // a candidate whose log was behind asked, and nobody led since
};

// Requests for votes from a member, by term, and whether its log was behind when they came. A reply
// may wait for a slow disk while requests of other terms come, late ones of earlier terms as well.
#define SIM_ASKED_TERMS 8

struct sim_asked {
    struct {
        uint64_t term;
        bool behind;
    } terms[SIM_ASKED_TERMS];
    unsigned next; // the place of the next new term
};

struct sim_waiting {
    uint32_t sequence; // 0: nobody waits
    uint16_t node;
};

struct sim_waiting_read {
    bool used, confirmed;
    uint32_t sequence, key;
    uint16_t node;
    uint64_t asked; // number of the event
    uint64_t floor; // what was committed anywhere when the read was asked for
    uint64_t index;
};

struct sim_member {
    struct sim_host host; // first: found from it by a cast
    struct sim_cluster *cluster;
    unsigned slot;
    uint64_t id;
    bool used, lost; // lost: its disk is gone, it never comes back
    bool crashing;   // power failed inside a disk operation
    bool stopping;   // its disk failed: it stops as soon as it can
    struct raft *raft;
    struct sim_disk disk;
    struct sim_journal journal;
    struct sim_machine machine;
    struct sim_random random;     // for the core
    struct raft_counters counted; // the core's counters that were added up already

    uint64_t writing; // number of the core's write under way, 0: none
    size_t write_from, write_to;
    bool write_installs;
    bool snapshotting;
    size_t snapshot_from, snapshot_to;

    struct sim_waiting waiting[SIM_SESSIONS];
    struct sim_waiting_read reads[SIM_SESSIONS];

    // For the checker.
    struct sim_view view;
    struct sim_times times;
    uint64_t commit_allowed; // by what leaders' messages said and covered, for a follower
    struct sim_logged_configuration
        configurations[SIM_CONFIGS]; // of its log, as far as written or being written
    unsigned configuration_count;
    struct raft_hard_state durable_hard_state;
    struct raft_position durable_last; // at its stop, {0, 0} if a write was under way
    struct sim_asked vote_asked[SIM_MEMBERS], pre_vote_asked[SIM_MEMBERS];
    size_t memory;      // bytes that the core has allocated
    bool refuse_memory; // allocations fail by chance
};

struct sim_client {
    struct sim_cluster *cluster;
    unsigned node;
    uint32_t session, sequence;
    bool active, waiting;
    size_t operation; // in the history
    bool read_index;
    unsigned target; // slot
    uint64_t generation;
};

struct sim_variant; // an entry that some log holds or held

struct sim_agreed {
    uint64_t term, content, commit_term, chain;
    bool applied;
};

struct sim_term {
    int leader;                  // slot, -1: none seen
    uint32_t votes[SIM_MEMBERS]; // for the candidate of that slot, by voters' slots
};

struct sim_checker {
    struct sim_variant **variants; // by index
    size_t variant_room;
    struct sim_variant *variant_pool;
    struct sim_agreed *agreed; // by index, up to agreed_count - 1
    size_t agreed_room;
    uint64_t agreed_last;
    struct sim_term *terms;
    size_t term_room, term_count;
    uint32_t leaders; // slots of members that lead by their own view
    uint64_t highest_term;
};

struct sim_trace {
    uint64_t hash;
    bool print;
};

struct sim_cluster {
    struct sim_events events;
    struct sim_network network;
    struct sim_plan plan;
    uint64_t seed;
    struct sim_random random; // for faults, clients and starts
    struct sim_member members[SIM_MEMBERS];
    unsigned member_count;
    struct sim_client clients[SIM_CLIENTS];
    unsigned next_session;
    struct sim_operation *history;
    size_t history_count, history_room;
    struct sim_linearizer *linearizer;
    struct sim_checker checker;
    struct sim_counters counters;
    struct sim_trace trace;
    uint64_t fault_generation[SIM_FAULT_COUNT];
    bool healed, over;
    sim_time healed_at, settled_at;
    uint64_t settled_term;
    int transfer_to; // slot; -1: the last transfer hasn't begun
    sim_time transfer_at;
    bool failed;
    char rule[48], failure[400];
    struct raft_message_decoded decoded;
    int mutant; // enum raft_mutant, 0: none
    enum sim_owner_mutant owner_mutant;
    void (*prepare)(struct sim_cluster *cluster); // before the members start; may be NULL
};

// ---- cluster.c ----

struct sim_cluster *sim_cluster_create(void);
void sim_cluster_destroy(struct sim_cluster *cluster);

// Plays a whole run. False if a check failed: `rule` and `failure` say which.
bool sim_cluster_run(struct sim_cluster *cluster, uint64_t seed, const struct sim_profile *profile);

// The same in pieces, for who steps through the events by itself.
void sim_cluster_begin(struct sim_cluster *cluster, uint64_t seed,
                       const struct sim_profile *profile);
void sim_cluster_end(struct sim_cluster *cluster);

// The first failure ends the run.
__attribute__((format(printf, 3, 4))) void sim_fail(struct sim_cluster *cluster, const char *rule,
                                                    const char *format, ...);

// Goes into the hash of the trace always, and to the readable trace when that is on.
void sim_note(struct sim_cluster *cluster, uint64_t what, uint64_t value);
__attribute__((format(printf, 2, 3))) void sim_print(struct sim_cluster *cluster,
                                                     const char *format, ...);
#define SIM_TRACE(cluster, ...)                                                                    \
    do {                                                                                           \
        if ((cluster)->trace.print)                                                                \
            sim_print(cluster, __VA_ARGS__);                                                       \
    } while (0)

// All links whole, all disks well, everyone up, no more faults: from now on there must be progress.
void sim_cluster_heal(struct sim_cluster *cluster);

static inline struct sim_member *sim_cluster_member(struct sim_cluster *cluster, uint64_t id)
{
    return &cluster->members[(id & 0xff) - 1];
}

// ---- member.c ----

// Takes the next free slot for a new server; NULL when all are used. It isn't started yet.
int sim_member_found(struct sim_member *member, const struct raft_configuration *configuration);
struct sim_member *sim_member_create(struct sim_cluster *cluster,
                                     const struct raft_configuration *configuration);
// Its id, known before it is created, so that the founding members can name each other.
uint64_t sim_member_id(struct sim_cluster *cluster, unsigned slot);
void sim_member_init(struct sim_cluster *cluster, struct sim_member *member, unsigned slot);
void sim_member_free(struct sim_member *member);
void sim_member_forget(struct sim_member *member); // at the end of a run
bool sim_member_start(struct sim_member *member);
enum sim_crash { SIM_POWER_LOSS, SIM_KILLED };
void sim_member_crash(struct sim_member *member, enum sim_crash crash);
void sim_member_pump(struct sim_member *member);
bool sim_member_up(const struct sim_member *member);

// ---- client.c ----

void sim_client_start(struct sim_cluster *cluster, unsigned number);
void sim_client_receive(struct sim_client *client, const struct sim_packet *packet);
void sim_member_serve(struct sim_member *member, const struct sim_packet *packet);
void sim_member_applied(struct sim_member *member, const struct sim_command *command, bool current,
                        uint64_t result);
void sim_member_read_ready(struct sim_member *member, const struct raft_read *read);
void sim_member_answer_reads(struct sim_member *member);

// ---- faults.c ----

void sim_faults_start(struct sim_cluster *cluster);
void sim_faults_restart_later(struct sim_member *member);

// ---- checker.c ----

void sim_checker_reset(struct sim_checker *checker);
void sim_checker_free(struct sim_checker *checker);
void sim_checker_started(struct sim_member *member);
void sim_checker_observe(struct sim_member *member);
void sim_checker_stopped(struct sim_member *member);
void sim_checker_write(struct sim_member *member, const struct raft_write *write);
void sim_checker_written(struct sim_member *member);
void sim_checker_apply(struct sim_member *member, const struct raft_entry *entry, uint64_t content);
void sim_checker_applied(struct sim_member *member);
void sim_checker_installed(struct sim_member *member);
void sim_checker_send(struct sim_member *member, const struct raft_message *message);
void sim_checker_receive(struct sim_member *member, const struct raft_message *message);
void sim_checker_finish(struct sim_cluster *cluster);
void sim_checker_time_reset(struct sim_member *member);
void sim_checker_tick(struct sim_member *member);
void sim_checker_heard(struct sim_member *member, const struct raft_message *message,
                       unsigned from);
void sim_checker_campaign(struct sim_member *member, const struct raft_status *status);
void sim_checker_read(struct sim_member *member, uint64_t asked);
void sim_checker_compact(struct sim_member *member, uint64_t retain);
void sim_checker_proposed(struct sim_member *member, const struct raft_status *before);
struct sim_voters sim_voters_of(const struct raft_configuration *configuration);
bool sim_quorum(const struct sim_voters *voters, uint32_t present);
