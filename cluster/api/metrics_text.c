#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/api/metrics.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

// A label's value: backslash, quote and line feed are escaped.
static void put_label(FILE *out, const char *name, const char *value)
{
    fprintf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            fputs("\\n", out);
        else if (*value == '\\' || *value == '"')
            fprintf(out, "\\%c", *value);
        else
            fputc(*value, out);
    }
    fputc('"', out);
}

static void put_one(FILE *out, const char *name, const char *label, const char *value,
                    uint64_t number)
{
    fprintf(out, "%s{", name);
    put_label(out, label, value);
    fprintf(out, "} %" PRIu64 "\n", number);
}

static void put_plain(FILE *out, const char *name, const char *type, const char *help,
                      uint64_t number)
{
    head(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, number);
}

// ---- hosts ----

struct host_sums {
    uint64_t machines, cpus, memory;
};

static struct host_sums sum_of(const struct record_view *view, const char *host)
{
    struct host_sums sums = {0};
    for (size_t i = 0; i < view->machine_count; i++) {
        const struct machine_entry *entry = &view->machines[i];
        if (!entry->owner.mod || strcmp(entry->owner.value.owner.host, host) != 0)
            continue;
        sums.machines++;
        sums.cpus += entry->machine.value.machine.cpus;
        sums.memory += entry->machine.value.machine.memory;
    }
    return sums;
}

static uint64_t host_number(const struct record_view *view, const struct host_entry *host,
                            unsigned which)
{
    const struct host_record *about = &host->host.value.host;
    struct host_sums sums = sum_of(view, host->name);
    const uint64_t numbers[] = {
        host->life.mod && !host->life.value.life.fenced,
        about->draining,
        host->life.value.life.incarnation,
        about->cpus,
        about->memory,
        sums.cpus,
        sums.memory,
        sums.machines,
    };
    return numbers[which];
}

static void put_hosts(FILE *out, const struct record_view *view)
{
    static const struct {
        const char *name, *help;
    } series[] = {
        {"ferry_host_up", "Whether the host counts as alive."},
        {"ferry_host_draining", "Whether machines are to leave the host."},
        {"ferry_host_incarnation", "How often the host has registered."},
        {"ferry_host_cpus", "CPUs that the host has for machines."},
        {"ferry_host_memory_bytes", "Memory that the host has for machines."},
        {"ferry_host_promised_cpus", "Virtual CPUs of the machines that are the host's."},
        {"ferry_host_promised_memory_bytes", "Memory of the machines that are the host's."},
        {"ferry_host_machines", "Machines that are the host's."},
    };
    for (unsigned k = 0; k < sizeof(series) / sizeof(series[0]); k++) {
        head(out, series[k].name, "gauge", series[k].help);
        for (size_t i = 0; i < view->host_count; i++)
            put_one(out, series[k].name, "host", view->hosts[i].name,
                    host_number(view, &view->hosts[i], k));
    }
}

// ---- machines ----

static void put_states(FILE *out, const struct record_view *view)
{
    static const char *const states[] = {"pending", "starting", "running", "paused",  "lease-lost",
                                         "failed",  "stopped",  "lost",    "deleting"};
    enum { STATES = sizeof(states) / sizeof(states[0]) };
    uint64_t counts[STATES + 1] = {0};
    for (size_t i = 0; i < view->machine_count; i++) {
        unsigned k = 0;
        if (!view->machines[i].machine.mod)
            continue;
        const char *state = api_machine_state(view, &view->machines[i]);
        while (k < STATES && strcmp(states[k], state) != 0)
            k++;
        counts[k]++;
    }
    head(out, "ferry_machines", "gauge", "Machines by what has become of them.");
    for (unsigned k = 0; k < STATES; k++)
        put_one(out, "ferry_machines", "state", states[k], counts[k]);
    put_one(out, "ferry_machines", "state", "other", counts[STATES]);
}

static void put_machines(FILE *out, const struct record_view *view)
{
    static const struct {
        const char *name, *help;
    } series[] = {
        {"ferry_machine_running", "Whether the machine runs, and where it is."},
        {"ferry_machine_wanted", "Whether the machine is wanted to run."},
        {"ferry_machine_failures", "How often in a row the machine has failed on its host."},
    };
    for (unsigned k = 0; k < sizeof(series) / sizeof(series[0]); k++) {
        head(out, series[k].name, "gauge", series[k].help);
        for (size_t i = 0; i < view->machine_count; i++) {
            const struct machine_entry *entry = &view->machines[i];
            const struct machine_record *machine = &entry->machine.value.machine;
            const uint64_t numbers[] = {
                strcmp(api_machine_state(view, entry), "running") == 0,
                machine->wish == WISH_RUNNING,
                entry->state.value.state.restarts,
            };
            if (!entry->machine.mod)
                continue;
            fprintf(out, "%s{", series[k].name);
            put_label(out, "machine", machine->name);
            fputc(',', out);
            put_label(out, "host", entry->owner.value.owner.host);
            fprintf(out, "} %" PRIu64 "\n", numbers[k]);
        }
    }
}

static void put_moves(FILE *out, const struct record_view *view)
{
    head(out, "ferry_migrations", "gauge", "Moves by how far they are.");
    for (enum migration_stage stage = MIGRATION_RESERVED; stage <= MIGRATION_ABORTED; stage++) {
        uint64_t count = 0;
        for (size_t i = 0; i < view->machine_count; i++)
            count += view->machines[i].owner.value.owner.migration.stage == stage;
        put_one(out, "ferry_migrations", "stage", migration_stage_name(stage), count);
    }
}

// ---- Raft ----

static void put_member(FILE *out, const json_t *member)
{
    static const struct {
        const char *field, *name, *type, *help;
    } series[] = {
        {"term", "ferry_raft_term", "gauge", "Raft's term, as this member knows it."},
        {"commit", "ferry_raft_commit_index", "gauge", "Last entry known to be committed."},
        {"applied", "ferry_raft_applied_index", "gauge", "Last entry applied here."},
        {"durable", "ferry_raft_durable_index", "gauge", "Last entry durable here."},
        {"snapshot", "ferry_raft_snapshot_index", "gauge", "Last entry in the snapshot here."},
        {"elections", "ferry_raft_elections_total", "counter", "Elections that this member began."},
        {"revision", "ferry_store_revision", "gauge", "Revision of the store here."},
        {"keys", "ferry_store_keys", "gauge", "Keys in the store."},
        {"bytes", "ferry_store_bytes", "gauge", "Memory that the store's contents take."},
        {"log_segments", "ferry_wal_segments", "gauge", "Files of the log here."},
    };
    const char *role = json_string_value(json_object_get(member, "role"));
    for (size_t i = 0; i < sizeof(series) / sizeof(series[0]); i++) {
        const json_t *value = json_object_get(member, series[i].field);
        if (json_is_integer(value))
            put_plain(out, series[i].name, series[i].type, series[i].help,
                      (uint64_t)json_integer_value(value));
    }
    put_plain(out, "ferry_raft_is_leader", "gauge", "Whether this member leads.",
              role && strcmp(role, "leader") == 0);
    put_plain(out, "ferry_raft_has_leader", "gauge", "Whether this member knows a leader.",
              json_is_string(json_object_get(member, "leader")));
}

char *metrics_text(const struct metrics_own *own, const struct record_view *view,
                   const json_t *member)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    head(out, "ferry_info", "gauge", "Always 1: what answers.");
    fputs("ferry_info{", out);
    put_label(out, "host", own->host);
    fputc(',', out);
    put_label(out, "version", FERRY_VERSION);
    fputs("} 1\n", out);
    put_plain(out, "ferry_store_reachable", "gauge",
              "Whether the store answered; without it hosts and machines are left out.",
              view != NULL);
    put_plain(out, "ferry_manager", "gauge", "Whether this host manages the cluster.",
              own->manages);
    put_plain(out, "ferry_machine_starts_total", "counter",
              "Machines that this host's ferryd has started.", own->starts);
    head(out, "ferry_migrations_total", "counter",
         "Moves that this host's ferryd has brought to their end.");
    put_one(out, "ferry_migrations_total", "result", "done", own->moves_done);
    put_one(out, "ferry_migrations_total", "result", "aborted", own->moves_aborted);
    if (member)
        put_member(out, member);
    if (view) {
        put_hosts(out, view);
        put_states(out, view);
        put_machines(out, view);
        put_moves(out, view);
    }
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}
