// What a member's log must hold, kept beside the real one (cluster/wal): plans of what the member
// writes next, as a Raft core would, and the judgement of what a crash left.
//
// An entry's length and bytes are a function of (index, term), a snapshot's of its position: so
// that any mix-up shows, and nothing needs to be remembered.
#pragma once

#include "cluster/wal/wal.h"
#include "random.h"

#define WAL_MODEL_ENTRIES 1024 // the highest index of a run
#define WAL_MODEL_BATCH   24
#define WAL_MODEL_DATA    9000 // of one entry at most

struct wal_model_log {
    struct raft_hard_state hard_state;
    struct raft_position snapshot; // the log may begin after it
    uint64_t last;
    uint64_t terms[WAL_MODEL_ENTRIES + 1];
};

struct wal_model {
    struct sim_random random;
    struct wal_model_log sure;  // acknowledged
    struct wal_model_log after; // what the write under way makes of it
    uint64_t applied;           // never overwritten again
    bool under_way;
    // The write under way.
    struct raft_write write;
    struct raft_entry entries[WAL_MODEL_BATCH];
    uint8_t data[WAL_MODEL_BATCH][WAL_MODEL_DATA];
    struct raft_snapshot_request chunk;
    struct raft_configuration configuration;
    uint8_t chunk_data[4096];
    // A leader's snapshot that is being received.
    bool receiving;
    struct raft_position incoming;
    uint64_t incoming_offset;
    char failure[200]; // why wal_model_judge() said no
};

void wal_model_reset(struct wal_model *model, uint64_t seed);

struct raft_snapshot wal_model_snapshot(struct raft_position last);
uint32_t wal_model_snapshot_length(struct raft_position last);
uint8_t wal_model_snapshot_byte(struct raft_position last, uint64_t at);

// Decides what is written next, into model->write. False: no room for more in this run.
bool wal_model_plan(struct wal_model *model);
// The write under way was acknowledged.
void wal_model_done(struct wal_model *model);
// The member ended: a write under way may have been done, and nothing is being received.
void wal_model_ended(struct wal_model *model);

// Whether an opened log shows what was acknowledged, and of the write under way a prefix. What it
// shows counts as acknowledged from now on.
bool wal_model_judge(struct wal_model *model, struct wal *wal);
// Whether one entry, drawn at random, reads as it should.
bool wal_model_read_one(struct wal_model *model, struct wal *wal);
