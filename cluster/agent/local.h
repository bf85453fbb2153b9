// The machines' processes of this host, as its agent meets them: found by their locks, asked and
// told over their control sockets. A machine of the cluster has its UUID as its name in the runtime
// directory.
//
// A start is visible from its fork on: the new process inherits a lock on DIR/.start-UUID, so that
// a restarted agent neither overlooks nor repeats it.
//
// Threads: one. Calls wait for machines, but never for long.
#pragma once

#include <jansson.h>

#include "base/runtime_dir.h"
#include "cluster/agent/agent.h"

struct local_spawn;

struct local_machines {
    struct runtime_dir dir;
    char program[PATH_MAX]; // ferry
    char boot_id[UUID_TEXT_SIZE];
    const char *witness; // NULL; for tests: where machines leave evidence of when they ran
    const json_t *facts; // of this host: where its pools are; NULL none
    const char *listen;  // where incoming machines are waited for: "tcp://ADDRESS:0", or tls://
    const char *certificate, *key, *ca; // with tls://
    struct local_spawn *spawns;
};

// `program` NULL: the ferry beside this program.
int local_open(struct local_machines *machines, const char *runtime_dir, const char *program,
               const char *boot_id, struct error *err);
void local_close(struct local_machines *machines);
// Takes note of starts that have ended. To be called now and then.
void local_reap(struct local_machines *machines);
// The UUIDs of all machines here that could be the cluster's, dead ones included.
int local_list(struct local_machines *machines,
               int (*visit)(const char *uuid, bool alive, void *opaque), void *opaque,
               struct error *err);

struct local_look {
    struct local_view view;
    char state[24];                // as the machine says; "" if it doesn't
    char reason[RECORD_TEXT_SIZE]; // how it ended, or why its start failed
};
void local_look(struct local_machines *machines, const char *uuid, struct local_look *look);

struct local_start {
    const char *uuid, *name;
    const char *description; // JSON
    uint64_t epoch, deadline_ns;
    bool unbounded; // it runs without the deadline; a receiver waits for its source until then
    bool new_disks;
};
// Begins a start: 0, or a sentence.
int local_spawn(struct local_machines *machines, const struct local_start *start,
                struct error *err);
// Begins to wait for a machine that comes by migration `id`; it will be found as LOCAL_INCOMING. It
// brings its name and description. Both sides of a move want the other's certificate to be that of
// the host that the record names: `peer` is what its host record says of it; "": any will do.
int local_receive(struct local_machines *machines, const struct local_start *start, const char *id,
                  const char *peer, struct error *err);
// Tells a machine to migrate.
int local_migrate(struct local_machines *machines, const char *uuid, uint64_t epoch,
                  const struct migration_record *migration, const char *peer, struct error *err);
// Tells it to give that up; it refuses where it can't any more.
int local_cancel(struct local_machines *machines, const char *uuid, struct error *err);
// How the last migration of a machine here goes: its phase, and why it failed;
// "none" when there was none, "" when it doesn't say.
void local_migration(struct local_machines *machines, const char *uuid, char phase[24],
                     char reason[RECORD_TEXT_SIZE]);
// The machine goes on under a new epoch.
int local_reinstate(struct local_machines *machines, const char *uuid, uint64_t epoch,
                    uint64_t deadline_ns, struct error *err);
int local_press_power(struct local_machines *machines, const char *uuid, struct error *err);
int local_kill(struct local_machines *machines, const char *uuid, struct error *err);
// What a machine that is no more has left behind.
void local_forget(struct local_machines *machines, const char *uuid);
