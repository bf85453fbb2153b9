// How many machines move at a time: a host's network and its guests' downtimes suffer from each.
//
// Pure, and the same for the manager, which begins moves, and for who tells people why one waits.
#pragma once

#include "cluster/records/view.h"

enum {
    MOVES_OF_HOST = 2,     // under way at a time from and to one host
    MOVES_OF_CLUSTER = 16, // in all
    MOVES_DRAIN_TRIES = 5, // of one machine that a drain makes, until a person looks at it
};

// Those under way, by host, an entry for each of the view's hosts; and those that people have asked
// for and that haven't begun.
struct moves {
    unsigned all;
    unsigned *of_host;
    size_t room;
    size_t *waiting; // which of the view's machines: the oldest request first, then by UUID
    size_t waiting_count, waiting_room;
};

// 0 or -ENOMEM. To be freed by moves_free(), also after an error.
int moves_count(struct moves *moves, const struct record_view *view);
void moves_free(struct moves *moves);
bool moves_is_under_way(const struct owner_record *owner);
// Whether a person has asked for a move of it that may still begin: one whose turn has come begins
// when both hosts have room, so that a later one between other hosts may come first.
bool moves_is_waiting(const struct record_view *view, const struct machine_entry *entry);
// 1 for the one that was asked for first; 0: it doesn't wait.
size_t moves_place(const struct moves *moves, const struct record_view *view,
                   const struct machine_entry *entry);
// Whether one more may begin, between hosts of the view; else `reason` says what it waits for. `to`
// may be NULL: anywhere.
bool moves_may_begin(const struct moves *moves, const struct record_view *view, const char *from,
                     const char *to, char reason[RECORD_TEXT_SIZE]);
void moves_begin(struct moves *moves, const struct record_view *view, const char *from,
                 const char *to);
