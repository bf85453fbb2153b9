#include "cluster/agent/host_lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cluster_mutant.h"
#include "base/failure_point.h"
#include "base/log.h"

// A connection to one machine. Lines go out whole or not at all: a machine that doesn't read is
// left alone, and gets the next deadline by a new connection.
struct lease_link {
    struct lease_link *next;
    struct lease_target target;
    int fd;
    bool wanted;
};

static void pause_until(struct host_lease *lease, uint64_t when)
{
    while (!atomic_load(&lease->stop)) {
        uint64_t now = clock_boottime_ns();
        if (now >= when)
            return;
        uint64_t left = when - now;
        const uint64_t slice = 20 * NSEC_PER_MSEC; // so that a stop doesn't wait long
        nanosleep(&(struct timespec){.tv_nsec = (long)(left < slice ? left : slice)}, NULL);
    }
}

// ---- machines ----

static int connect_link(const struct host_lease *lease, const char *uuid)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s/control.sock",
                     lease->runtime_dir, uuid);
    if (n < 0 || (size_t)n >= sizeof(address.sun_path))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // A machine that is stopped may have a full backlog: then EAGAIN, rather than a wait.
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void drop_answers(struct lease_link *link)
{
    char buffer[4096];
    ssize_t n;
    while ((n = recv(link->fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0)
        ;
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(link->fd);
        link->fd = -1;
    }
}

static void send_deadline(const struct host_lease *lease, struct lease_link *link)
{
    char line[512];
    uint64_t deadline = lease->renewal.deadline;
    if (CLUSTER_IS_MUTANT(DEADLINE_RELATIVE)) // the machine adds when it comes
        deadline = lease->renewal.deadline_ns;
    if (link->fd >= 0)
        drop_answers(link);
    if (link->fd < 0)
        link->fd = connect_link(lease, link->target.uuid);
    if (link->fd < 0)
        return; // not listening yet, or gone: the agent sees to that
    int length = snprintf(line, sizeof(line),
                          "{\"method\":\"lease.renew\",\"params\":{\"uuid\":\"%s\",\"boot_id\":"
                          "\"%s\",\"epoch\":%lu,\"deadline_ns\":%lu}}\n",
                          link->target.uuid, lease->boot_id, link->target.epoch, deadline);
    ssize_t n = send(link->fd, line, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n != length) {
        close(link->fd);
        link->fd = -1;
    }
}

static struct lease_link *find_link(struct host_lease *lease, const char *uuid)
{
    struct lease_link *link = lease->links;
    while (link && strcmp(link->target.uuid, uuid) != 0)
        link = link->next;
    if (link)
        return link;
    link = calloc(1, sizeof(*link));
    if (!link)
        return NULL;
    snprintf(link->target.uuid, sizeof(link->target.uuid), "%s", uuid);
    link->fd = -1;
    link->next = lease->links;
    lease->links = link;
    return link;
}

static void drop_unwanted_links(struct host_lease *lease)
{
    for (struct lease_link **at = &lease->links; *at;) {
        struct lease_link *link = *at;
        if (link->wanted) {
            link->wanted = false;
            at = &link->next;
            continue;
        }
        *at = link->next;
        if (link->fd >= 0)
            close(link->fd);
        free(link);
    }
}

static void forward(struct host_lease *lease)
{
    pthread_mutex_lock(&lease->lock);
    for (size_t i = 0; i < lease->target_count; i++) {
        struct lease_link *link = find_link(lease, lease->targets[i].uuid);
        if (!link)
            continue;
        link->target = lease->targets[i];
        link->wanted = true;
    }
    pthread_mutex_unlock(&lease->lock);
    for (struct lease_link *link = lease->links; link; link = link->next)
        if (link->wanted)
            send_deadline(lease, link);
    drop_unwanted_links(lease);
}

// ---- the store ----

static void publish(struct host_lease *lease, const char *trouble)
{
    pthread_mutex_lock(&lease->lock);
    lease->self = (struct agent_self){
        .host = lease->host,
        .incarnation = lease->renewal.incarnation,
        .life_mod = lease->renewal.life_mod,
        .deadline = lease->renewal.deadline,
        .over = lease->renewal.over,
    };
    snprintf(lease->trouble, sizeof(lease->trouble), "%.*s", RECORD_TEXT_SIZE - 1, trouble);
    pthread_mutex_unlock(&lease->lock);
}

// 0: registered.
static int do_register(struct host_lease *lease, struct error *err)
{
    struct record life;
    struct change change;
    uint64_t revision;
    int r = exchange_get(&lease->exchange, RECORD_SETTINGS, "", &life, err);
    if (!r && life.value.settings.generation != lease->settings.generation)
        r = error_set(err, ESTALE,
                      "the store was restored from a backup: this host must join it anew, with an "
                      "empty data directory");
    if (!r)
        r = exchange_get(&lease->exchange, RECORD_LIFE, lease->host, &life, err);
    if (!r)
        r = renewal_register(&life, lease->host, lease->identity, lease->boot_id, &change, err);
    if (r < 0)
        return r;
    if (r == 0) {
        log_info("this host is '%s', incarnation %lu, as before", lease->host,
                 life.value.life.incarnation);
    } else {
        if (exchange_commit(&lease->exchange, &change, &revision, err) != CHANGE_COMMITTED)
            return error_set(err, EAGAIN, "registering this host: the store doesn't say yes");
        life.value.life = change.puts[0].value.life;
        life.mod = revision;
        log_info("this host is '%s', incarnation %lu from now on", lease->host,
                 life.value.life.incarnation);
    }
    renewal_init(&lease->renewal, lease->host, &life.value.life, life.mod, &lease->settings);
    if (CLUSTER_IS_MUTANT(DRIFT_ABOVE_RHO)) // as a clock has it that runs at half the speed
        lease->renewal.deadline_ns *= 2;
    return 0;
}

static void renew(struct host_lease *lease)
{
    struct change change;
    struct error err;
    uint64_t revision;
    // Read before the first attempt to send: the deadline counts from here.
    renewal_attempt(&lease->renewal, clock_boottime_ns(), &change);
    failure_point("lease-before-renewal");
    enum change_outcome outcome = exchange_commit(&lease->exchange, &change, &revision, &err);
    failure_point("lease-after-renewal");
    renewal_outcome(&lease->renewal, outcome, clock_boottime_ns());
    if (outcome == CHANGE_COMMITTED || CLUSTER_IS_MUTANT(UNKNOWN_RENEWS))
        forward(lease);
    else if (outcome == CHANGE_REFUSED)
        log_warning("this host was declared dead: its machines have stopped, it registers anew");
    publish(lease, outcome == CHANGE_UNKNOWN ? err.message : "");
}

static void learn_addresses(struct host_lease *lease)
{
    pthread_mutex_lock(&lease->lock);
    bool changed = lease->learned[0] && strcmp(lease->learned, lease->exchange.addresses) != 0;
    if (changed) {
        exchange_close(&lease->exchange);
        memcpy(lease->exchange.addresses, lease->learned, sizeof(lease->learned));
    }
    pthread_mutex_unlock(&lease->lock);
}

static void *lease_main(void *opaque)
{
    struct host_lease *lease = opaque;
    char told[RECORD_TEXT_SIZE] = "";
    while (!atomic_load(&lease->stop)) {
        uint64_t began = clock_boottime_ns();
        struct error err = {0};
        learn_addresses(lease);
        if (!lease->renewal.incarnation || lease->renewal.over) {
            int r = do_register(lease, &err);
            if (r && strncmp(told, err.message, sizeof(told) - 1) != 0) {
                log_warning("this host isn't registered: %s", err.message);
                snprintf(told, sizeof(told), "%.*s", RECORD_TEXT_SIZE - 1, err.message);
            }
            if (r)
                publish(lease, told);
        }
        if (lease->renewal.incarnation && !lease->renewal.over)
            renew(lease);
        pause_until(lease, began + lease->settings.renew_ns);
    }
    return NULL;
}

int host_lease_start(struct host_lease *lease, struct error *err)
{
    pthread_mutex_init(&lease->lock, NULL);
    atomic_store(&lease->stop, false);
    lease->exchange.timeout_ns = lease->settings.renew_ns;
    int r = pthread_create(&lease->thread, NULL, lease_main, lease);
    if (r)
        return error_set_errno(err, r, "starting the lease's thread");
    lease->running = true;
    return 0;
}

void host_lease_stop(struct host_lease *lease)
{
    if (!lease->running)
        return;
    atomic_store(&lease->stop, true);
    pthread_join(lease->thread, NULL);
    lease->running = false;
    drop_unwanted_links(lease);
    exchange_close(&lease->exchange);
    free(lease->targets);
    lease->targets = NULL;
    pthread_mutex_destroy(&lease->lock);
}

void host_lease_self(struct host_lease *lease, struct agent_self *self,
                     char trouble[RECORD_TEXT_SIZE])
{
    pthread_mutex_lock(&lease->lock);
    *self = lease->self;
    memcpy(trouble, lease->trouble, RECORD_TEXT_SIZE);
    pthread_mutex_unlock(&lease->lock);
}

int host_lease_set_targets(struct host_lease *lease, const struct lease_target *targets,
                           size_t count)
{
    int r = 0;
    pthread_mutex_lock(&lease->lock);
    if (count > lease->target_room) {
        struct lease_target *grown = realloc(lease->targets, count * sizeof(*grown));
        if (grown) {
            lease->targets = grown;
            lease->target_room = count;
        } else {
            r = -ENOMEM;
        }
    }
    if (!r) {
        if (count)
            memcpy(lease->targets, targets, count * sizeof(*targets));
        lease->target_count = count;
    }
    pthread_mutex_unlock(&lease->lock);
    return r;
}
