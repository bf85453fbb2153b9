// Hosts that may still have something of a machine: they were lost with its process, or sent it
// away, and their agents haven't said since that nothing is left.
//
// An owner record names them (`left`) from the moment on in which it names them no longer as
// owner, source or target. A deleted machine's tombstone takes the list over, and goes only when
// each has confirmed the end, was declared dead, or was removed from the cluster.
#pragma once

#include "cluster/records/view.h"

// Adds one; of the same host the later incarnation counts. In a full list a host that isn't lost
// makes room, since its agent looks at what it has all the time; else the one that came first.
void left_hosts_add(const struct record_view *view, struct left_hosts *left, const char *host,
                    uint64_t incarnation);
// Adds the other side of a move, which the owner record is about to forget.
void left_hosts_add_move(const struct record_view *view, struct left_hosts *left,
                         const struct migration_record *migration);
// Adds all that an owner record names, by which nothing may be done any more: those it had before,
// its host if it was started there, the other side of a move.
void left_hosts_add_owner(const struct record_view *view, struct left_hosts *left,
                          const struct owner_record *owner);
// Whether the host is named with this incarnation or an earlier one.
bool left_hosts_has(const struct left_hosts *left, const char *host, uint64_t incarnation);
// Takes those out.
void left_hosts_drop(struct left_hosts *left, const char *host, uint64_t incarnation);

// Why nobody needs to wait for this one any more, as the end of a sentence about the host; NULL: it
// has to confirm.
const char *left_host_excuse(const struct record_view *view, const struct left_host *one);
// Takes those out that have an excuse.
void left_hosts_drop_excused(const struct record_view *view, struct left_hosts *left);

// Adds to a change that a deleted machine's records go:
// all at once where no host is in `left`; else all but the tombstone, which then waits for
// these. Compares the owner record and the tombstone.
void change_bury(struct change *change, const struct machine_entry *entry,
                 const struct left_hosts *left);
