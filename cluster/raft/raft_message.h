// The messages between Raft servers, and their encoding.
//
// Requests and replies are Figure 2's and Figure 13's RPCs, taken apart so that none waits for
// another: messages may be lost, doubled, reordered and delayed for any time.
//
// Wire format, version 1: every field little-endian, in the order of docs/raft.md's table. A
// decoder never trusts a length. Framing, checksums and authentication are the transport's.
#pragma once

#include "cluster/raft/raft_types.h"

#define RAFT_MESSAGE_VERSION 1

// Entries in one append request.
#define RAFT_MESSAGE_ENTRIES_MAX 256

// Data of one entry, and of one chunk of a snapshot.
#define RAFT_ENTRY_BYTES_MAX (16u << 20)
#define RAFT_CHUNK_BYTES_MAX (16u << 20)

enum raft_message_type {
    RAFT_MESSAGE_PRE_VOTE_REQUEST = 1,
    RAFT_MESSAGE_PRE_VOTE_REPLY = 2,
    RAFT_MESSAGE_VOTE_REQUEST = 3,
    RAFT_MESSAGE_VOTE_REPLY = 4,
    RAFT_MESSAGE_APPEND_REQUEST = 5,
    RAFT_MESSAGE_APPEND_REPLY = 6,
    RAFT_MESSAGE_HEARTBEAT_REQUEST = 7,
    RAFT_MESSAGE_HEARTBEAT_REPLY = 8,
    RAFT_MESSAGE_SNAPSHOT_REQUEST = 9,
    RAFT_MESSAGE_SNAPSHOT_REPLY = 10,
    RAFT_MESSAGE_TIMEOUT_NOW = 11,
    RAFT_MESSAGE_TYPE_MAX = 11
};

// RequestVote; a pre-vote request has the term that its sender would campaign in.
struct raft_vote_request {
    struct raft_position last; // lastLogIndex, lastLogTerm
    bool transfer;             // the leader asked for this election: no leader stickiness
};

// A granted pre-vote carries the term that was asked for, a refusal the voter's own.
struct raft_vote_reply {
    bool granted;
};

// AppendEntries with entries, or with none to ask how far a follower got.
struct raft_append_request {
    struct raft_position previous; // prevLogIndex, prevLogTerm
    uint64_t commit;               // leaderCommit
    uint32_t entry_count;
    const struct raft_entry *entries; // from previous.index + 1 on, without gaps
};

struct raft_append_reply {
    bool success;
    uint64_t match;            // success: the last index that the request covered, durable
    uint64_t rejected;         // else: the previous index that didn't match, and
    struct raft_position hint; // where the follower's log could match: nothing after it can
};

// AppendEntries as a sign of life: no log check, so its commit never passes the known match.
struct raft_heartbeat_request {
    uint64_t commit;
    uint64_t round; // for ReadIndex: a reply to round n confirms the leader for all up to n
};

struct raft_heartbeat_reply {
    uint64_t round;
};

// InstallSnapshot: chunks of the snapshot named by `last`, in order, each answered.
struct raft_snapshot_request {
    struct raft_position last;                      // lastIncludedIndex, lastIncludedTerm
    const struct raft_configuration *configuration; // as of `last`
    uint64_t offset;
    const uint8_t *data;
    uint32_t length;
    bool done;
};

struct raft_snapshot_reply {
    struct raft_position last; // of the snapshot that is answered
    uint64_t offset;           // the next byte wanted; 0: begin again
    bool installed;            // the follower's log has reached `last`, durably
};

struct raft_message {
    enum raft_message_type type;
    uint64_t from;
    uint64_t to;
    uint64_t term;
    union {
        struct raft_vote_request vote_request; // and pre-vote
        struct raft_vote_reply vote_reply;     // and pre-vote
        struct raft_append_request append_request;
        struct raft_append_reply append_reply;
        struct raft_heartbeat_request heartbeat_request;
        struct raft_heartbeat_reply heartbeat_reply;
        struct raft_snapshot_request snapshot_request;
        struct raft_snapshot_reply snapshot_reply;
    };
};

// "vote request" and so on; "unknown" for a type that there isn't.
const char *raft_message_type_name(enum raft_message_type type);

// The exact number of bytes that the encoded message takes.
size_t raft_message_size(const struct raft_message *message);

// Sets *length. -ENOSPC if capacity < raft_message_size(), -EINVAL for a message that can't be.
int raft_message_encode(const struct raft_message *message, uint8_t *buffer, size_t capacity,
                        size_t *length);

// A decoded message with what its pointers point to; data stays in the bytes it came from.
struct raft_message_decoded {
    struct raft_message message;
    struct raft_configuration configuration;
    struct raft_entry entries[RAFT_MESSAGE_ENTRIES_MAX];
};

// Decodes one message that fills the bytes exactly. -EPROTONOSUPPORT for another version, -EBADMSG
// for anything malformed: unknown type, short or long input, gaps or falling terms in entries, ids
// of 0. `decoded` refers to itself and to `data`: don't copy or free either while it is in use.
int raft_message_decode(struct raft_message_decoded *decoded, const uint8_t *data, size_t length);
