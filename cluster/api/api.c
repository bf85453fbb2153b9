#include "cluster/api/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "cluster/store/store_admin.h"

enum { TRIES = 20 };

struct job {
    uv_work_t work;
    struct api_call call;
    struct control_request *request;
    api_method *method;
    json_t *params;
    int error;
};

// ---- helpers of the methods ----

const char *api_text(struct api_call *call, const char *name, bool needed)
{
    const json_t *value = json_object_get(call->params, name);
    if (value && !json_is_string(value))
        error_set(&call->err, EINVAL, "\"%s\" must be a text", name);
    else if (!value && needed)
        error_set(&call->err, EINVAL, "\"%s\" is missing", name);
    return json_string_value(value);
}

static json_t *ask_json(struct store_client *client, enum protocol_request kind, struct error *err)
{
    struct byte_reader answer;
    enum store_status status = store_client_request(client, kind, NULL, 0, &answer, err);
    if (status != STORE_OK) {
        error_set(err, EAGAIN, "store: %s", store_status_text(status));
        return NULL;
    }
    return store_admin_json(&answer, err);
}

json_t *api_store_json(struct api_call *call, enum protocol_request kind)
{
    struct record none;
    // Opens the client, if it isn't yet.
    if (exchange_get(&call->exchange, RECORD_MANAGER, "", &none, &call->err))
        return NULL;
    return ask_json(call->exchange.client, kind, &call->err);
}

// By a client of its own: the exchange's may be with the leader.
json_t *api_store_status(struct api_call *call)
{
    struct store_client *client = NULL;
    if (store_client_create(&client, call->api->store, &call->err))
        return NULL;
    store_client_set_sticky(client, true);
    store_client_set_timeout(client, 2 * NSEC_PER_SEC);
    json_t *object = ask_json(client, REQUEST_STATUS, &call->err);
    store_client_destroy(client);
    return object;
}

// 0, or what a reading has ended with.
static int check_read(struct api_call *call, int r)
{
    if (r)
        return r;
    if (call->view.settings.mod)
        return 0;
    call->code = "wrong-state";
    return error_set(&call->err, ENOENT,
                     "this cluster isn't set up yet: `ferry cluster init` does that");
}

int api_read(struct api_call *call)
{
    return check_read(call, exchange_read(&call->exchange, &call->view, &call->err));
}

int api_read_machine(struct api_call *call)
{
    const char *name = api_text(call, "name", false);
    return call->err.code ? -call->err.code
                          : check_read(call, exchange_read_machine(&call->exchange, name,
                                                                   &call->view, &call->err));
}

int api_change(struct api_call *call, int (*fill)(struct api_call *call, struct change *change))
{
    for (int i = 0; i < TRIES; i++) {
        struct change change;
        uint64_t revision;
        int r = call->read ? call->read(call) : api_read(call);
        change_clear(&change);
        if (!r)
            r = fill(call, &change);
        if (r)
            return r > 0 ? 0 : r;
        enum change_outcome outcome =
            exchange_commit(&call->exchange, &change, &revision, &call->err);
        if (outcome == CHANGE_COMMITTED)
            return 0;
        // Refused: it was changed meanwhile. Unknown: the next reading shows whether it was done.
        if (outcome == CHANGE_UNKNOWN && i + 1 == TRIES)
            return -EAGAIN;
    }
    return error_set(&call->err, EAGAIN, "it is changed by somebody else all the time: try again");
}

// ---- requests ----

// No answer came, or that there is no leader: which of both, and what follows, this host's own
// member can say.
static void explain_silence(struct api_call *call)
{
    struct error why = call->err;
    if (call->code || (why.code != EAGAIN && why.code != ETIMEDOUT))
        return;
    json_t *status = call->api->client_host ? NULL : api_store_status(call);
    bool silent = !status || json_is_null(json_object_get(status, "leader"));
    json_decref(status);
    call->err = why;
    if (!silent)
        return;
    error_set(
        &call->err, why.code,
        "%.300s; %s (`ferry cluster status` on another host; docs/cluster.md, \"the store has "
        "no majority\")",
        why.message,
        call->api->client_host
            ? "this host reaches no member that knows who leads"
            : "this host's member knows of no leader: it is cut off, or a majority of the "
              "voters is down, and until that is over nothing can be changed");
}

static void work(uv_work_t *request)
{
    struct job *job = request->data;
    job->error = job->method(&job->call);
    if (job->error)
        explain_silence(&job->call);
}

static void answer(uv_work_t *request, int status)
{
    struct job *job = request->data;
    struct api_call *call = &job->call;
    (void)status;
    if (job->error && call->code)
        control_request_fail(job->request, call->code, "%s", call->err.message);
    else if (job->error)
        control_request_fail_error(job->request, &call->err);
    else
        control_request_reply(job->request, call->result ? call->result : json_object());
    if (job->error)
        json_decref(call->result);
    exchange_close(&call->exchange);
    record_view_free(&call->view);
    json_decref(job->params);
    free(job);
}

static bool refuse_on_client_host(const struct api *api, const char *method,
                                  struct control_request *request, const json_t *params);

static void begin(struct api_caller *caller, const char *name, struct control_request *request,
                  json_t *params, api_method *method)
{
    const struct api *api = caller->api;
    if (refuse_on_client_host(api, name, request, params))
        return;
    struct job *job = calloc(1, sizeof(*job));
    if (!job) {
        control_request_fail(request, "no-memory", "out of memory");
        return;
    }
    job->request = request;
    job->method = method;
    // A copy: Jansson's counts aren't for several threads.
    job->params = json_deep_copy(params);
    job->call = (struct api_call){.api = api, .params = job->params};
    job->call.exchange = (struct exchange){
        .local = api->store,
        .certificate = api->certificate,
        .key = api->key,
        .ca = api->ca,
        .timeout_ns = 5 * NSEC_PER_SEC,
    };
    record_view_init(&job->call.view);
    job->work.data = job;
    if (uv_queue_work(api->loop, &job->work, work, answer)) {
        control_request_fail(request, "failed", "no thread for it");
        json_decref(job->params);
        free(job);
    }
}

// Those that only look.
#define READING(X)                                                                                 \
    X("cluster.status", api_cluster_status)                                                        \
    X("cluster.hosts", api_cluster_hosts)                                                          \
    X("vm.list", api_vm_list)                                                                      \
    X("vm.show", api_vm_show)                                                                      \
    X("vm.explain", api_vm_explain)                                                                \
    X("vm.events", api_vm_events)

#define CHANGING(X)                                                                                \
    X("cluster.drain", api_cluster_drain)                                                          \
    X("cluster.undrain", api_cluster_undrain)                                                      \
    X("cluster.remove", api_cluster_remove)                                                        \
    X("cluster.voter", api_cluster_voter)                                                          \
    X("cluster.declare_dead", api_cluster_declare_dead)                                            \
    X("vm.declare_dead", api_vm_declare_dead)                                                      \
    X("vm.create", api_vm_create)                                                                  \
    X("vm.start", api_vm_start)                                                                    \
    X("vm.stop", api_vm_stop)                                                                      \
    X("vm.delete", api_vm_delete)                                                                  \
    X("vm.migrate", api_vm_migrate)                                                                \
    X("vm.cancel_move", api_vm_cancel_move)

// What lets somebody in, or out, is said on a host.
#define OF_THIS_HOST(X)                                                                            \
    X("cluster.init", api_cluster_init)                                                            \
    X("cluster.join", api_cluster_join)                                                            \
    X("cluster.restore", api_cluster_restore)                                                      \
    X("cluster.release", api_cluster_release)                                                      \
    X("cluster.token", api_cluster_token)                                                          \
    X("cluster.clients", api_cluster_clients)                                                      \
    X("cluster.client_certificate", api_cluster_client_certificate)                                \
    X("cluster.client_revoke", api_cluster_client_revoke)

// What a client host may not ask the store for: it is done on a member, or from elsewhere with a
// client's certificate.
static bool is_for_members(const char *method)
{
    static const char *const methods[] = {"cluster.remove",       "cluster.voter",
                                          "cluster.declare_dead", "cluster.init",
                                          "cluster.release",      "cluster.token",
                                          "cluster.clients",      "cluster.client_certificate",
                                          "cluster.client_revoke"};
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (strcmp(methods[i], method) == 0)
            return true;
    return false;
}

static bool refuse_on_client_host(const struct api *api, const char *method,
                                  struct control_request *request, const json_t *params)
{
    const char *whom = json_string_value(json_object_get(params, "host"));
    bool drains = strcmp(method, "cluster.drain") == 0 || strcmp(method, "cluster.undrain") == 0;
    if (!api->client_host ||
        !(is_for_members(method) || (drains && whom && strcmp(whom, api->host) != 0)))
        return false;
    control_request_fail(request, "not-allowed",
                         "'%s' is a client host: do this on a host that is a member of the store "
                         "(`ferry cluster hosts`), or with a client's certificate (--cluster)",
                         api->host);
    return true;
}

#define CALL(name, method)                                                                         \
    static void call_##method(void *opaque, struct control_request *request, json_t *params)       \
    {                                                                                              \
        begin(opaque, name, request, params, method);                                              \
    }
#define CALL_NOTED(name, method)                                                                   \
    static void call_##method(void *opaque, struct control_request *request, json_t *params)       \
    {                                                                                              \
        note(opaque, name, params);                                                                \
        begin(opaque, name, request, params, method);                                              \
    }
#define NOT_ALLOWED(name, method)                                                                  \
    static void refuse_##method(void *opaque, struct control_request *request, json_t *params)     \
    {                                                                                              \
        refuse(opaque, name, request);                                                             \
    }

// Whoever isn't of this host leaves a line when something is changed.
static void note(const struct api_caller *caller, const char *method, const json_t *params)
{
    static const char *const whom[] = {"name", "host"};
    const char *name = NULL;
    for (size_t i = 0; i < sizeof(whom) / sizeof(whom[0]) && !name; i++)
        name = json_string_value(json_object_get(params, whom[i]));
    if (caller->name)
        log_info("%s: %s%s%s", caller->name, method, name ? " " : "", name ? name : "");
}

static void refuse(const struct api_caller *caller, const char *method,
                   struct control_request *request)
{
    log_info("%s: %s: refused", caller->name, method);
    control_request_fail(request, "not-allowed",
                         "%s may not do this (%s): its certificate isn't for that, or it is done "
                         "on a host alone",
                         caller->name, method);
}

READING(CALL)
CHANGING(CALL_NOTED)
OF_THIS_HOST(CALL)
CHANGING(NOT_ALLOWED)
OF_THIS_HOST(NOT_ALLOWED)

#define ENTRY(name, method)   {name, call_##method},
#define REFUSED(name, method) {name, refuse_##method},
static const struct control_method all[] = {READING(ENTRY) CHANGING(ENTRY)
                                                OF_THIS_HOST(ENTRY){NULL, NULL}};
static const struct control_method changing[] = {READING(ENTRY) CHANGING(ENTRY)
                                                     OF_THIS_HOST(REFUSED){NULL, NULL}};
static const struct control_method reading[] = {READING(ENTRY) CHANGING(REFUSED)
                                                    OF_THIS_HOST(REFUSED){NULL, NULL}};
static const char *const features[] = {"cluster", NULL};

void api_service(struct api_caller *caller, enum api_right right, struct control_service *service)
{
    static const struct control_method *const tables[] = {
        [API_READ] = reading, [API_CHANGE] = changing, [API_ALL] = all};
    *service =
        (struct control_service){.methods = tables[right], .features = features, .opaque = caller};
}

int api_start(struct api *api, uv_loop_t *loop, const char *path, struct error *err)
{
    api->loop = loop;
    api->here = (struct api_caller){.api = api};
    api_service(&api->here, API_ALL, &api->service);
    api->service.more = api->more;
    int fd = local_socket_listen(path, err);
    return fd < 0 ? fd : control_server_create(&api->server, loop, fd, &api->service, err);
}

void api_stop(struct api *api)
{
    control_server_destroy(api->server);
    api->server = NULL;
}
