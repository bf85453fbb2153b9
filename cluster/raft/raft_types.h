// What a replicated log is made of: entries, positions, configurations, and the state that a
// server must find again after a crash. Used by the core, by its messages and by storages.
//
// "Paper" is Ongaro and Ousterhout, In Search of an Understandable Consensus Algorithm (extended
// version, 2014); "dissertation" is Ongaro, Consensus: Bridging Theory and Practice (2014).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// No server, no vote, no leader: real server ids are random and never 0.
#define RAFT_NONE 0

// Members of one configuration, learners and both sides of a joint one together.
#define RAFT_MEMBERS_MAX 32

// A place in a log. Two logs that hold the same position are the same up to it (Log Matching).
struct raft_position {
    uint64_t index; // the first entry has 1; 0 is before it
    uint64_t term;
};

enum raft_entry_type {
    RAFT_ENTRY_NOOP = 0,         // starts each leader's term; no data
    RAFT_ENTRY_COMMAND = 1,      // for the state machine; the data is the caller's
    RAFT_ENTRY_CONFIGURATION = 2 // an encoded struct raft_configuration
};

struct raft_entry {
    uint64_t index;
    uint64_t term;
    enum raft_entry_type type;
    uint32_t length;
    const uint8_t *data; // length bytes; NULL if there are none
};

// The roles of a member, as bits. A joint configuration (paper, section 6) is one list in which
// the two sets of voters overlap:
//
//     VOTER|VOTER_OLD    votes in both majorities and stays
//     VOTER              comes: votes in the majority of C_new
//     VOTER_OLD          goes: votes in the majority of C_old, no member after the joint phase
//     VOTER_OLD|LEARNER  is demoted: a learner after the joint phase
//     LEARNER            receives the log and counts in no majority
//
// A configuration is joint exactly if some member has VOTER_OLD.
enum raft_role_bits { RAFT_VOTER = 1, RAFT_VOTER_OLD = 2, RAFT_LEARNER = 4 };

struct raft_member {
    uint64_t id;
    uint8_t roles; // enum raft_role_bits, never 0; LEARNER excludes VOTER
};

struct raft_configuration {
    uint32_t count;
    struct raft_member members[RAFT_MEMBERS_MAX]; // ascending by id, each id once
};

// Figure 2, "persistent state": what a server must never forget, beside its log.
struct raft_hard_state {
    uint64_t term;      // currentTerm
    uint64_t voted_for; // votedFor in that term, or RAFT_NONE
};

// Which prefix of the log a snapshot stands for, and the configuration as of its last entry, joint
// or not (paper, section 7). The snapshot at index 0 is the empty state machine; its configuration
// is the one the cluster is founded with, or has no members on a server that waits to be added.
struct raft_snapshot {
    struct raft_position last; // lastIncludedIndex, lastIncludedTerm
    struct raft_configuration configuration;
};

bool raft_configuration_is_joint(const struct raft_configuration *configuration);

// The roles of `id`, or 0 if it is no member.
uint8_t raft_configuration_roles(const struct raft_configuration *configuration, uint64_t id);

// The largest encoded configuration.
#define RAFT_CONFIGURATION_BYTES_MAX (2 + 4 + RAFT_MEMBERS_MAX * 9)

// Returns the encoded length. `buffer` has RAFT_CONFIGURATION_BYTES_MAX bytes.
size_t raft_configuration_encode(const struct raft_configuration *configuration, uint8_t *buffer);

// Never trusts its input: -EBADMSG if it isn't one whole valid configuration (version, order and
// uniqueness of ids, roles, at least one voter in each set; no members at all is valid as well).
int raft_configuration_decode(struct raft_configuration *configuration, const uint8_t *data,
                              size_t length);
