#include "cluster/agent/local.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/control_client.h"
#include "base/log.h"
#include "base/move_sockets.h"
#include "cluster/records/facts.h"

enum { CALL_TIMEOUT_MS = 300, KILL_TIMEOUT_MS = 2000 };

// A `ferry run` under way.
struct local_spawn {
    struct local_spawn *next;
    char uuid[UUID_TEXT_SIZE];
    pid_t pid;  // 0 when it has ended
    int errors; // what it says, a memfd
    int output; // of `ferry receive`, a memfd
    uint64_t epoch;
    // A receiver's: what it waits for, and where. Of a start `migration_id` is empty.
    char migration_id[UUID_TEXT_SIZE];
    char address[RECORD_ADDRESS_SIZE], token[80];
    char reason[RECORD_TEXT_SIZE];
};

int local_open(struct local_machines *machines, const char *runtime_dir, const char *program,
               const char *boot_id, struct error *err)
{
    *machines = (struct local_machines){0};
    snprintf(machines->boot_id, sizeof(machines->boot_id), "%s", boot_id);
    if (program) {
        snprintf(machines->program, sizeof(machines->program), "%s", program);
    } else {
        ssize_t n = readlink("/proc/self/exe", machines->program, sizeof(machines->program) - 8);
        char *slash = n > 0 ? memrchr(machines->program, '/', (size_t)n) : NULL;
        if (!slash)
            return error_set(err, ENOENT, "where the ferry program is can't be found out");
        strcpy(slash + 1, "ferry");
    }
    if (access(machines->program, X_OK) != 0)
        return error_set_errno(err, errno, "'%s', which starts machines", machines->program);
    return runtime_dir_open(&machines->dir, runtime_dir, err);
}

static void close_outputs(struct local_spawn *spawn)
{
    if (spawn->errors >= 0)
        close(spawn->errors);
    if (spawn->output >= 0)
        close(spawn->output);
    spawn->errors = spawn->output = -1;
}

void local_close(struct local_machines *machines)
{
    while (machines->spawns) {
        struct local_spawn *spawn = machines->spawns;
        machines->spawns = spawn->next;
        close_outputs(spawn);
        free(spawn);
    }
    runtime_dir_close(&machines->dir);
}

static struct local_spawn *find_spawn(const struct local_machines *machines, const char *uuid)
{
    struct local_spawn *spawn = machines->spawns;
    while (spawn && strcmp(spawn->uuid, uuid) != 0)
        spawn = spawn->next;
    return spawn;
}

static void start_lock_name(const char *uuid, char out[64])
{
    snprintf(out, 64, ".start-%.40s", uuid);
}

// The last line of what it said, without "ferry: run: ".
static void read_errors(struct local_spawn *spawn)
{
    char text[1024];
    ssize_t n = pread(spawn->errors, text, sizeof(text) - 1, 0);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    text[n > 0 ? n : 0] = 0;
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (strncmp(line, "ferry: run: ", 12) == 0)
        line += 12;
    snprintf(spawn->reason, sizeof(spawn->reason), "%.*s", RECORD_TEXT_SIZE - 1, line);
}

// Also where that can't be told.
static bool start_is_under_way(const struct local_machines *machines, const char *uuid)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char name[64];
    start_lock_name(uuid, name);
    int fd = openat(machines->dir.fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno != ENOENT;
    bool held = fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
    close(fd);
    return held;
}

// "listening at PLACE", "token TEXT": a line each.
static void read_place(struct local_spawn *spawn)
{
    char text[1024];
    ssize_t n = pread(spawn->output, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "listening at %279s\ntoken %79s", spawn->address, spawn->token) != 2)
        spawn->address[0] = 0;
}

void local_reap(struct local_machines *machines)
{
    for (struct local_spawn *spawn = machines->spawns; spawn; spawn = spawn->next) {
        int status;
        if (!spawn->pid || waitpid(spawn->pid, &status, WNOHANG) != spawn->pid)
            continue;
        spawn->pid = 0;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            read_errors(spawn);
            log_warning("machine %s: its start failed: %s", spawn->uuid, spawn->reason);
        }
        if (spawn->migration_id[0])
            read_place(spawn);
        close_outputs(spawn);
        // What it has left behind, a receiver, has the lock for its life.
        if (start_is_under_way(machines, spawn->uuid))
            continue;
        char lock[64];
        start_lock_name(spawn->uuid, lock);
        unlinkat(machines->dir.fd, lock, 0);
    }
}

struct listing {
    int (*visit)(const char *uuid, bool alive, void *opaque);
    void *opaque;
};

static int visit_uuid(const char *name, bool alive, void *opaque)
{
    const struct listing *listing = opaque;
    struct uuid uuid;
    return uuid_parse(name, &uuid) == 0 ? listing->visit(name, alive, listing->opaque) : 0;
}

int local_list(struct local_machines *machines,
               int (*visit)(const char *uuid, bool alive, void *opaque), void *opaque,
               struct error *err)
{
    struct listing listing = {visit, opaque};
    return runtime_dir_list(&machines->dir, visit_uuid, &listing, err);
}

// ---- talking ----

static int call(struct local_machines *machines, const char *uuid, const char *method,
                json_t *params, int timeout_ms, json_t **result, struct error *err)
{
    char path[PATH_MAX];
    struct control_client *client = NULL;
    int r = runtime_dir_path(&machines->dir, uuid, "control.sock", path);
    if (!r)
        r = control_client_connect(&client, path, timeout_ms, err);
    if (r) {
        json_decref(params);
        return r;
    }
    r = control_client_call(client, method, params, NULL, 0, timeout_ms, result, err);
    control_client_close(client);
    return r;
}

static void look_at_end(const struct local_machines *machines, const char *uuid,
                        struct local_look *look)
{
    json_t *end = runtime_dir_read_exit(&machines->dir, uuid);
    const char *reason = json_string_value(json_object_get(end, "reason"));
    static const char *const clean[] = {"power-off", "reboot", "exit"};
    const struct local_spawn *spawn = find_spawn(machines, uuid);
    look->view.epoch = (uint64_t)json_integer_value(json_object_get(end, "epoch"));
    if (reason) {
        look->view.end = END_FAILED;
        snprintf(look->reason, sizeof(look->reason), "%s", reason);
        for (int i = 0; i < 3; i++)
            if (strcmp(reason, clean[i]) == 0)
                look->view.end = END_CLEAN;
    } else {
        char death[RUNTIME_DEATH_SIZE];
        runtime_dir_read_death(&machines->dir, uuid, death);
        snprintf(look->reason, sizeof(look->reason), "its process %.*s", RECORD_TEXT_SIZE - 20,
                 death);
    }
    if (spawn && spawn->reason[0]) {
        look->view.end = END_FAILED;
        look->view.epoch = 0;
        snprintf(look->reason, sizeof(look->reason), "%s", spawn->reason);
    }
    json_decref(end);
}

static void take_query(const json_t *query, struct local_look *look)
{
    const char *state = json_string_value(json_object_get(query, "state"));
    const json_t *epoch = json_object_get(json_object_get(query, "lease"), "epoch");
    if (!state || !epoch)
        return; // about to end, or not the cluster's
    snprintf(look->state, sizeof(look->state), "%s", state);
    look->view.epoch = (uint64_t)json_integer_value(epoch);
    look->view.ran = strcmp(state, "running") == 0 || strcmp(state, "paused") == 0;
    if (strcmp(state, "lease-lost") == 0)
        look->view.process = LOCAL_LOST;
    else if (strcmp(state, "stopped") != 0)
        look->view.process = LOCAL_LIVE;
}

// A receiver of this agent's that hasn't become a running machine.
static void be_incoming(const struct local_spawn *spawn, struct local_look *look)
{
    look->view.process = LOCAL_INCOMING;
    look->view.epoch = spawn->epoch;
    snprintf(look->view.migration_id, sizeof(look->view.migration_id), "%s", spawn->migration_id);
    snprintf(look->view.address, sizeof(look->view.address), "%s", spawn->address);
    snprintf(look->view.token, sizeof(look->view.token), "%s", spawn->token);
}

void local_look(struct local_machines *machines, const char *uuid, struct local_look *look)
{
    struct error err;
    json_t *query = NULL;
    const struct local_spawn *spawn = find_spawn(machines, uuid);
    *look = (struct local_look){0};
    bool starting = start_is_under_way(machines, uuid);
    bool receiver = spawn && spawn->migration_id[0];
    int alive = runtime_dir_is_alive(&machines->dir, uuid);
    if (alive == 0 || alive == -ENOENT) {
        if (starting && receiver && spawn->address[0])
            be_incoming(spawn, look);
        else if (starting)
            look->view.process = LOCAL_STARTING;
        else
            look_at_end(machines, uuid, look);
        return;
    }
    // Alive, or that can't be told: until it says what it is nothing is known, and it isn't gone.
    look->view.process = LOCAL_STARTING;
    if (call(machines, uuid, "query", NULL, CALL_TIMEOUT_MS, &query, &err) == 0)
        take_query(query, look);
    if (receiver && look->view.process == LOCAL_LIVE && !look->view.ran &&
        look->view.epoch == spawn->epoch)
        be_incoming(spawn, look);
    json_decref(query);
}

// ---- starting ----

// The description under the name that the process has here.
static json_t *own_description(const struct local_start *start)
{
    json_t *object = json_loads(start->description, 0, NULL);
    if (object && (json_object_set_new(object, "name", json_string(start->uuid)) != 0 ||
                   json_object_set_new(object, "uuid", json_string(start->uuid)) != 0)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int write_config(const struct local_machines *machines, const struct local_start *start,
                        struct error *err)
{
    json_t *object = own_description(start);
    int unresolved = facts_resolve_description(machines->facts, object, err);
    if (unresolved) {
        json_decref(object);
        return unresolved;
    }
    int fd = memfd_create("config", MFD_CLOEXEC);
    int r = object && fd >= 0 ? json_dumpfd(object, fd, JSON_COMPACT) : -1;
    json_decref(object);
    if (r == 0 && lseek(fd, 0, SEEK_SET) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return error_set(err, EINVAL, "the machine's description can't be handed on");
}

static int take_start_lock(const struct local_machines *machines, const char *uuid,
                           struct error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char name[64];
    start_lock_name(uuid, name);
    int fd = openat(machines->dir.fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "'%s/%s'", machines->dir.path, name);
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return fd;
    int r = error_set_errno(err, errno, "locking '%s/%s'", machines->dir.path, name);
    close(fd);
    return r;
}

// In the child: only what may be called after a fork of a program with threads.
static void become_ferry(char *const *argv, const int fds[5])
{
    int mine[5];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    // Numbers of their own first, out of the way of 0 to 4.
    for (int i = 0; i < 5; i++)
        mine[i] = fcntl(fds[i], F_DUPFD, 10);
    for (int i = 0; i < 5; i++)
        dup2(mine[i], i);
    close_range(5, ~0U, 0);
    execv(argv[0], argv);
    _exit(127);
}

// The spawn of this machine, ready for another one.
static struct local_spawn *new_spawn(struct local_machines *machines, const char *uuid,
                                     const char *migration_id, uint64_t epoch, struct error *err)
{
    struct local_spawn *spawn = find_spawn(machines, uuid);
    if (spawn && spawn->pid) {
        error_set(err, EBUSY, "an earlier start hasn't ended");
        return NULL;
    }
    struct local_spawn *next = spawn ? spawn->next : machines->spawns;
    if (!spawn) {
        spawn = calloc(1, sizeof(*spawn));
        if (!spawn) {
            error_set(err, ENOMEM, "out of memory");
            return NULL;
        }
        machines->spawns = spawn;
    }
    *spawn = (struct local_spawn){.next = next, .errors = -1, .output = -1, .epoch = epoch};
    snprintf(spawn->uuid, sizeof(spawn->uuid), "%s", uuid);
    snprintf(spawn->migration_id, sizeof(spawn->migration_id), "%s", migration_id);
    return spawn;
}

// Starts `ferry ARGV...` with the start's lock, and `config` (or -1) as descriptor 3.
static int run_ferry(struct local_machines *machines, struct local_spawn *spawn, char *const *argv,
                     int config, struct error *err)
{
    int lock = take_start_lock(machines, spawn->uuid, err);
    if (lock < 0)
        return lock;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), code = 0;
    spawn->errors = memfd_create("errors", MFD_CLOEXEC);
    spawn->output = memfd_create("output", MFD_CLOEXEC);
    const int fds[5] = {null, spawn->output, spawn->errors, config >= 0 ? config : null, lock};
    pid_t child = fork();
    if (child == 0)
        become_ferry(argv, fds);
    if (child < 0)
        code = error_set_errno(err, errno, "starting a process");
    else
        spawn->pid = child;
    close(lock);
    if (null >= 0)
        close(null);
    return code;
}

static int lease_text(const struct local_machines *machines, const struct local_start *start,
                      char *out, size_t size, struct error *err)
{
    int n = snprintf(out, size, "uuid=%s,epoch=%lu,%s=%lu%s,boot=%s%s%s%s", start->uuid,
                     start->epoch, start->unbounded ? "accept" : "deadline", start->deadline_ns,
                     start->unbounded ? ",deadline=none" : "", machines->boot_id,
                     start->new_disks ? ",new-disks" : "", machines->witness ? ",witness=" : "",
                     machines->witness ? machines->witness : "");
    return n < 0 || (size_t)n >= size ? error_set(err, ENAMETOOLONG, "the lease is too long") : 0;
}

int local_spawn(struct local_machines *machines, const struct local_start *start, struct error *err)
{
    char lease[PATH_MAX + 300];
    struct local_spawn *spawn = new_spawn(machines, start->uuid, "", start->epoch, err);
    if (!spawn)
        return -err->code;
    int config = write_config(machines, start, err);
    int r = config < 0 ? config : lease_text(machines, start, lease, sizeof(lease), err);
    char *const argv[] = {machines->program,
                          (char *)"run",
                          (char *)start->uuid,
                          (char *)"--config",
                          (char *)"/proc/self/fd/3",
                          (char *)"--detach",
                          (char *)"--runtime-dir",
                          machines->dir.path,
                          (char *)"--lease",
                          lease,
                          NULL};
    if (!r)
        r = run_ferry(machines, spawn, argv, config, err);
    if (config >= 0)
        close(config);
    if (r)
        snprintf(spawn->reason, sizeof(spawn->reason), "%.*s", RECORD_TEXT_SIZE - 1, err->message);
    return r;
}

int local_receive(struct local_machines *machines, const struct local_start *start, const char *id,
                  const char *peer, struct error *err)
{
    const char *uuid = start->uuid;
    char lease[PATH_MAX + 300];
    struct local_spawn *spawn = new_spawn(machines, uuid, id, start->epoch, err);
    if (!spawn)
        return -err->code;
    int r = lease_text(machines, start, lease, sizeof(lease), err);
    char *argv[24] = {machines->program,  (char *)"receive",  (char *)uuid,
                      (char *)"--detach", (char *)"--listen", (char *)machines->listen,
                      (char *)"--token",  (char *)"auto",     (char *)"--runtime-dir",
                      machines->dir.path, (char *)"--lease",  lease};
    char *const tls[] = {(char *)"--tls-cert", (char *)machines->certificate,
                         (char *)"--tls-key",  (char *)machines->key,
                         (char *)"--tls-ca",   (char *)machines->ca};
    for (int i = 0; machines->ca && i < 6; i++)
        argv[12 + i] = tls[i];
    if (machines->ca && peer[0]) {
        argv[18] = (char *)"--tls-peer";
        argv[19] = (char *)peer;
    }
    return r ? r : run_ferry(machines, spawn, argv, -1, err);
}

int local_reinstate(struct local_machines *machines, const char *uuid, uint64_t epoch,
                    uint64_t deadline_ns, struct error *err)
{
    json_t *params = json_pack("{s:s, s:s, s:I, s:I}", "uuid", uuid, "boot_id", machines->boot_id,
                               "epoch", (json_int_t)epoch, "deadline_ns", (json_int_t)deadline_ns);
    return call(machines, uuid, "lease.reinstate", params, KILL_TIMEOUT_MS, NULL, err);
}

// The descriptors of `tls` in migrate.start; closed by the caller.
static int open_credentials(const struct local_machines *machines, int *fds, unsigned *count,
                            struct error *err)
{
    const char *const paths[] = {machines->certificate, machines->key, machines->ca};
    for (int i = 0; i < 3; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return error_set_errno(err, errno, "'%s'", paths[i]);
        fds[(*count)++] = fd;
    }
    return 0;
}

int local_migrate(struct local_machines *machines, const char *uuid, uint64_t epoch,
                  const struct migration_record *migration, const char *peer, struct error *err)
{
    char path[PATH_MAX];
    int fds[3 + MOVE_SOCKETS_LIMIT];
    unsigned fd_count = 0;
    struct control_client *client = NULL;
    json_t *params =
        json_pack("{s:I, s:s, s:s, s:s}", "epoch", (json_int_t)epoch, "to", migration->address,
                  "token", migration->token, "migration_id", migration->id);
    int r = machines->ca ? open_credentials(machines, fds, &fd_count, err) : 0;
    if (!r && machines->ca)
        json_object_set_new(params, "tls",
                            json_pack("{s:{s:i}, s:{s:i}, s:{s:i}}", "certificate", "fd", 0, "key",
                                      "fd", 1, "ca", "fd", 2));
    if (!r && machines->ca && peer[0])
        json_object_set_new(json_object_get(params, "tls"), "peer", json_string(peer));
    if (!r)
        r = runtime_dir_path(&machines->dir, uuid, "control.sock", path);
    if (!r)
        r = control_client_connect(&client, path, KILL_TIMEOUT_MS, err);
    if (!r)
        r = move_sockets_add(client, params, migration->address, 1, fds, &fd_count, err);
    if (!r)
        r = control_client_call(client, "migrate.start", json_incref(params), fds, fd_count,
                                KILL_TIMEOUT_MS, NULL, err);
    control_client_close(client);
    json_decref(params);
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    return r;
}

int local_cancel(struct local_machines *machines, const char *uuid, struct error *err)
{
    return call(machines, uuid, "migrate.cancel", NULL, CALL_TIMEOUT_MS, NULL, err);
}

void local_migration(struct local_machines *machines, const char *uuid, char phase[24],
                     char reason[RECORD_TEXT_SIZE])
{
    struct error err;
    json_t *status = NULL;
    const char *text;
    phase[0] = reason[0] = 0;
    int r = call(machines, uuid, "migrate.status", NULL, CALL_TIMEOUT_MS, &status, &err);
    if (r == -EREMOTEIO)
        snprintf(phase, 24, "none");
    if (r == 0) {
        text = json_string_value(json_object_get(status, "phase"));
        snprintf(phase, 24, "%s", text ? text : "");
        text = json_string_value(json_object_get(status, "error"));
        snprintf(reason, RECORD_TEXT_SIZE, "%s", text ? text : "");
    }
    json_decref(status);
}

int local_press_power(struct local_machines *machines, const char *uuid, struct error *err)
{
    return call(machines, uuid, "power-button", NULL, CALL_TIMEOUT_MS, NULL, err);
}

int local_kill(struct local_machines *machines, const char *uuid, struct error *err)
{
    return call(machines, uuid, "kill", NULL, KILL_TIMEOUT_MS, NULL, err);
}

void local_forget(struct local_machines *machines, const char *uuid)
{
    struct error err;
    char lock[64];
    for (struct local_spawn **at = &machines->spawns; *at; at = &(*at)->next) {
        struct local_spawn *spawn = *at;
        if (strcmp(spawn->uuid, uuid) != 0 || spawn->pid)
            continue;
        *at = spawn->next;
        free(spawn);
        break;
    }
    start_lock_name(uuid, lock);
    unlinkat(machines->dir.fd, lock, 0);
    runtime_dir_remove(&machines->dir, uuid, &err);
}
