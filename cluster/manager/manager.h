// What the cluster's manager does: a pure step from one view of the store to changes of it.
//
// One manager acts at a time, named by the manager record, and every change compares that record;
// so a manager that was replaced changes nothing any more, and what one view shows as placed is all
// that can be placed: the owner records themselves are the reservations.
//
// A cluster that was restored from a backup is held: a machine is started only when L has passed
// and all hosts that it could run on have reported, by registering, or were declared dead: the one
// that it may only be on, or else all. When no host is missing the hold ends.
//
// What always holds:
//   - A host is fenced only after this manager's own clock advanced by L since it saw the host's
//     last renewal, by a change that compares that renewal. What an earlier manager saw doesn't
//     count, and nothing is counted over a time in which this one saw nothing itself.
//   - While a host isn't fenced its machines are taken from it by its own agent alone: a manager
//     changes an owner record only where there is no owner, or where the owner's incarnation is
//     over and its process had a deadline, or a person has declared that host dead.
#pragma once

#include "cluster/manager/moves.h"
#include "cluster/records/view.h"

enum {
    MANAGER_CHANGES = 32,
    MANAGER_RETRY_SECONDS = 10, // after a drain's move was called off
    MANAGER_SILENCE = 3, // renewal intervals without a word of the manager, then another takes over
};

struct manager_watch {
    char host[NAME_LIMIT + 1];
    uint64_t life_mod, renewal_mod;
    uint64_t observed_at; // on this manager's CLOCK_BOOTTIME; 0: never
};

struct manager {
    struct manager_watch *watches;
    size_t count, room;
    uint64_t seen_at; // the last view
    uint64_t held_at; // the first view of a cluster that is held; 0: none
    uint64_t manager_mod, manager_seen_at;
    uint64_t drain_tried_at; // the last time that a move which had been called off was tried again
    // Where a machine goes, or where to from the host that has it: the name of another host that
    // isn't over, or false with a reason. The view
    // shows what is placed, with what this step has placed so far.
    bool (*place)(void *opaque, const struct record_view *view, const struct machine_entry *machine,
                  char host[NAME_LIMIT + 1], char reason[RECORD_TEXT_SIZE]);
    // Whether it could still go there that somebody wants it to go; NULL: always. May be set.
    bool (*fits)(void *opaque, const struct record_view *view, const struct machine_entry *machine,
                 const char *host);
    void *opaque;
    struct moves moves; // of the step under way
};

struct manager_changes {
    unsigned count;
    struct change changes[MANAGER_CHANGES];
    // Owner records as they were, of entries in which the view shows something else meanwhile.
    struct {
        struct machine_entry *entry;
        struct owner_record before;
    } shown[MANAGER_CHANGES];
    unsigned shown_count;
};

void manager_init(struct manager *manager,
                  bool (*place)(void *opaque, const struct record_view *view,
                                const struct machine_entry *machine, char host[NAME_LIMIT + 1],
                                char reason[RECORD_TEXT_SIZE]),
                  void *opaque);
void manager_free(struct manager *manager);

// To be called for every view, also by daemons that don't manage, with the time after the view had
// come. `view->manager` names this manager when it acts. 0 or -ENOMEM (then nothing is counted).
int manager_observe(struct manager *manager, const struct record_view *view, uint64_t now);

// Whether to write the manager record now: to become the manager, or to say that one still is. It
// is only to have one manager mostly; nothing is unsafe with two, or with none. True: commit
// *change.
bool manager_lead(struct manager *manager, const struct record_view *view, const char *host,
                  const char *instance, uint64_t now, struct change *change);

// What to commit now, at most MANAGER_CHANGES at a time, in any order. The next step needs a view
// that was read after their outcomes. While it thinks the view shows what was placed so far;
// afterwards it is as before.
void manager_step(struct manager *manager, struct record_view *view, uint64_t now,
                  const char *(*new_id)(void *opaque), void *id_opaque,
                  struct manager_changes *changes);
