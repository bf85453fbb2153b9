// ferryd's client protocol: JSON lines over a Unix socket, or over TLS (remote.h). docs/cluster.md
// has the methods. The server is that of the machines' control sockets.
//
// Each request is served by a thread of the loop's pool, with a connection to the store of its own:
// one that has to wait holds nobody else up.
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/control_server.h"
#include "cluster/records/exchange.h"

struct api;
// Who calls.
struct api_caller {
    struct api *api;
    const char *name; // for the log; NULL: somebody of this host
};

struct api {
    // Set before the start; they stay as they are.
    const char *host;
    const char *store;                  // addresses, with commas
    const char *certificate, *key, *ca; // may be NULL
    uint64_t election_max_ns;
    uint64_t started_at;                // CLOCK_BOOTTIME
    bool client_host;                   // it has no member of the store
    const struct control_service *more; // for who comes by the Unix socket; NULL: nothing
    uv_loop_t *loop;
    struct api_caller here;
    struct control_service service;
    struct control_server *server;
};

// What somebody may do. Each may what those before it may.
enum api_right {
    API_READ,   // look
    API_CHANGE, // machines and hosts, but nothing that gives others access
    API_ALL,    // of this host
};
// The methods for callers of that right. Both outlive it.
void api_service(struct api_caller *caller, enum api_right right, struct control_service *service);

int api_start(struct api *api, uv_loop_t *loop, const char *path, struct error *err);
void api_stop(struct api *api);

// ---- for the methods ----

// What a method works with, on a thread of the pool.
struct api_call {
    const struct api *api;
    const json_t *params;
    struct exchange exchange;
    struct record_view view;
    // What api_change() reads each time; NULL: api_read().
    int (*read)(struct api_call *call);
    json_t *result;   // to be set
    const char *code; // of a failure, as in docs/control.md; NULL: "failed"
    struct error err;
};

// 0, or a negative errno with the sentence in call->err.
typedef int api_method(struct api_call *call);
api_method api_cluster_init, api_cluster_status, api_cluster_hosts, api_cluster_token,
    api_cluster_drain, api_cluster_undrain, api_cluster_remove, api_cluster_voter, api_cluster_join,
    api_cluster_restore, api_cluster_release, api_vm_create, api_vm_list, api_vm_show, api_vm_start,
    api_vm_stop, api_vm_delete, api_vm_migrate, api_vm_explain, api_vm_events, api_vm_cancel_move,
    api_cluster_clients, api_cluster_client_certificate, api_cluster_client_revoke,
    api_vm_declare_dead, api_cluster_declare_dead;

// The times of `cluster.init`, checked. 0 or a sentence.
int api_take_settings(const json_t *params, uint64_t election_max_ns,
                      struct settings_record *settings, struct error *err);
// A text parameter; NULL if it isn't there (with a sentence if it is `needed` or no text).
const char *api_text(struct api_call *call, const char *name, bool needed);
// A request to the store whose answer carries JSON; NULL with a sentence.
json_t *api_store_json(struct api_call *call, enum protocol_request kind);
// What this host's own member says of itself, with or without a leader; NULL with a sentence.
json_t *api_store_status(struct api_call *call);
// What became of a machine, from all that is known: "running", "pending", ...
const char *api_machine_state(const struct record_view *view, const struct machine_entry *entry);
// The machine of the parameter `name`, a name or UUID, in call->view; NULL with a sentence.
const struct machine_entry *api_find_machine(struct api_call *call);
// Reads everything; fails with a sentence where no cluster was initialised.
int api_read(struct api_call *call);
// The same of the machine of the parameter `name` alone, with the hosts that its records name.
int api_read_machine(struct api_call *call);
// Makes a change until it is known what became of it: `fill` fills it in from call->view (which is
// read anew each time), returning 0, 1 when it is done already, or an error.
int api_change(struct api_call *call, int (*fill)(struct api_call *call, struct change *change));
