// All records of hosts and machines as the store had them at one revision, joined by name and UUID.
//
// A view is of one moment; whoever decides by it compares the revisions in it. Views that one part
// takes follow each other: it never goes back to an older one.
#pragma once

#include "cluster/records/records.h"

struct host_entry {
    char name[NAME_LIMIT + 1];
    struct record host, life, renewal; // mod 0: not there
};

struct machine_entry {
    char uuid[UUID_TEXT_SIZE];
    struct record machine, owner, state, tombstone;
};

struct record_view {
    uint64_t revision;
    struct record settings, manager;
    struct host_entry *hosts; // by name
    size_t host_count, host_room;
    struct machine_entry *machines; // by UUID
    size_t machine_count, machine_room;
};

void record_view_init(struct record_view *view);
void record_view_free(struct record_view *view);
// Forgets the contents, keeps the memory.
void record_view_clear(struct record_view *view);
// Takes the record over; records of other kinds than those above are dropped. Records may come in
// any order. 0 or -ENOMEM.
int record_view_add(struct record_view *view, struct record *record);
// Takes one out that isn't there any more, and its entry with the last of them.
void record_view_remove(struct record_view *view, const struct record_key *key);
// Puts a change that was committed at `revision` into the view. What the change points to is
// copied. 0 or -ENOMEM.
int record_view_apply(struct record_view *view, const struct change *change, uint64_t revision);

// NULL: there is none.
const struct host_entry *record_view_host(const struct record_view *view, const char *name);
const struct machine_entry *record_view_machine(const struct record_view *view, const char *uuid);

// Whether the owner of this machine can't run it any more: its host's incarnation is over. False
// for OWNER_NONE.
bool record_view_owner_is_over(const struct record_view *view, const struct owner_record *owner);
// Whether nothing of this owner's runs any more: its incarnation is over and so its deadline has
// passed; or, where there is none, a person has declared that host dead. False for OWNER_NONE.
bool record_view_owner_is_gone(const struct record_view *view, const struct owner_record *owner);
