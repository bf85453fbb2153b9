#include "cluster/manager/manager_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/failure_point.h"
#include "base/log.h"

static void forget_placement(struct manager_driver *driver)
{
    placement_destroy(driver->placement);
    driver->placement = NULL;
    driver->placement_used = false;
}

static bool have_placement(struct manager_driver *driver, const struct record_view *view)
{
    if (driver->placement && driver->placement_of != driver->feed.placed)
        forget_placement(driver);
    if (!driver->placement)
        driver->placement = placer_create(view);
    driver->placement_of = driver->feed.placed;
    return driver->placement != NULL;
}

// What this step has placed so far counts for what follows.
static bool place(void *opaque, const struct record_view *view, const struct machine_entry *machine,
                  char host[NAME_LIMIT + 1], char reason[RECORD_TEXT_SIZE])
{
    struct manager_driver *driver = opaque;
    const struct owner_record *owner = &machine->owner.value.owner;
    struct placement_decision decision;
    if (!have_placement(driver, view) ||
        placement_decide(driver->placement, machine->uuid, &decision) != 0) {
        snprintf(reason, RECORD_TEXT_SIZE, "the manager has no memory to think about it");
        return false;
    }
    if (!decision.host) {
        placement_summary(&decision, reason, RECORD_TEXT_SIZE);
        return false;
    }
    snprintf(host, NAME_LIMIT + 1, "%s", decision.host);
    driver->placement_used = true;
    bool leaves = owner->stage == OWNER_STARTED && !record_view_owner_is_over(view, owner);
    placement_move_machine(driver->placement, machine->uuid, leaves ? owner->host : host,
                           leaves ? host : NULL);
    return true;
}

// Some time may have gone by since it was asked for.
static bool fits(void *opaque, const struct record_view *view, const struct machine_entry *machine,
                 const char *host)
{
    struct manager_driver *driver = opaque;
    struct placement_verdict verdict;
    if (!have_placement(driver, view) ||
        placement_explain_host(driver->placement, machine->uuid, host, &verdict) != 0 ||
        verdict.reason != PLACEMENT_FITS)
        return false;
    driver->placement_used = true;
    placement_move_machine(driver->placement, machine->uuid, machine->owner.value.owner.host, host);
    return true;
}

static const char *new_id(void *opaque)
{
    struct manager_driver *driver = opaque;
    struct uuid uuid = {0};
    uuid_generate_random(&uuid);
    return uuid_format(&uuid, driver->id);
}

static void say(const struct change *change)
{
    for (unsigned i = 0; i < change->put_count; i++) {
        const struct change_put *put = &change->puts[i];
        if (put->key.kind == RECORD_LIFE)
            log_warning("manager: host '%s' was silent for too long and is declared dead",
                        put->key.name);
        if (put->key.kind == RECORD_OWNER && !put->remove &&
            put->value.owner.stage == OWNER_ASSIGNED)
            log_info("manager: machine %s goes to host '%s'", put->key.name, put->value.owner.host);
    }
}

static bool begins_move(const struct change *change)
{
    const struct change_put *put = &change->puts[0];
    return put->key.kind == RECORD_OWNER && !put->remove &&
           put->value.owner.migration.stage == MIGRATION_RESERVED;
}

static bool fences(const struct change *change)
{
    return change->puts[0].key.kind == RECORD_LIFE;
}

static void pass_failure_point(const struct change *change, bool committed)
{
    if (begins_move(change))
        failure_point(committed ? "manager-after-reserved" : "manager-before-reserved");
    else if (fences(change))
        failure_point(committed ? "manager-after-fence" : "manager-before-fence");
}

static void manage(struct manager_driver *driver)
{
    struct error err;
    struct change lead;
    uint64_t revision;
    if (record_feed_refresh(&driver->feed, &driver->exchange, &driver->view, &err))
        return;
    uint64_t now = clock_boottime_ns(); // after the view had come
    exchange_learn(&driver->exchange, &driver->view, &err);
    if (manager_observe(&driver->core, &driver->view, now))
        return;
    bool own = driver->view.manager.mod &&
               strcmp(driver->view.manager.value.manager.instance, driver->instance) == 0;
    if (own != atomic_load(&driver->leads))
        log_info("manager: this host %s", own ? "manages the cluster" : "doesn't manage any more");
    atomic_store(&driver->leads, own);
    if (manager_lead(&driver->core, &driver->view, driver->host, driver->instance, now, &lead)) {
        // What was read compares the record as it was: the rest has time until the next view.
        exchange_commit(&driver->exchange, &lead, &revision, &err);
        return;
    }
    if (!own)
        return;
    manager_step(&driver->core, &driver->view, now, new_id, driver, driver->changes);
    if (driver->placement_used)
        forget_placement(driver);
    for (unsigned i = 0; i < driver->changes->count && !atomic_load(&driver->stop); i++) {
        const struct change *change = &driver->changes->changes[i];
        pass_failure_point(change, false);
        if (exchange_commit(&driver->exchange, change, &revision, &err) == CHANGE_COMMITTED)
            say(change);
        pass_failure_point(change, true);
    }
}

static void *manager_main(void *opaque)
{
    struct manager_driver *driver = opaque;
    // Often enough that looking is never taken for blindness.
    uint64_t pause = driver->settings.renew_ns / 4;
    if (pause > 250 * NSEC_PER_MSEC)
        pause = 250 * NSEC_PER_MSEC;
    while (!atomic_load(&driver->stop)) {
        manage(driver);
        nanosleep(&(struct timespec){.tv_nsec = (long)pause}, NULL);
    }
    return NULL;
}

int manager_driver_start(struct manager_driver *driver, struct error *err)
{
    record_view_init(&driver->view);
    manager_init(&driver->core, place, driver);
    driver->core.fits = fits;
    snprintf(driver->instance, sizeof(driver->instance), "%s", new_id(driver));
    driver->changes = malloc(sizeof(*driver->changes));
    atomic_store(&driver->stop, false);
    if (!driver->changes)
        return error_set(err, ENOMEM, "out of memory");
    int r = pthread_create(&driver->thread, NULL, manager_main, driver);
    if (r) {
        free(driver->changes);
        return error_set_errno(err, r, "starting the manager's thread");
    }
    driver->running = true;
    return 0;
}

void manager_driver_stop(struct manager_driver *driver)
{
    if (!driver->running)
        return;
    atomic_store(&driver->stop, true);
    pthread_join(driver->thread, NULL);
    driver->running = false;
    forget_placement(driver);
    record_feed_close(&driver->feed);
    manager_free(&driver->core);
    record_view_free(&driver->view);
    exchange_close(&driver->exchange);
    free(driver->changes);
}
