#include "cluster/agent/arbiter_listener.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/control_client.h"
#include "base/failure_point.h"
#include "base/log.h"

enum { CALL_TIMEOUT_MS = 1000, LOOK_UP_MS = 200, TRIES = 3 };

struct question {
    const char *id, *ask_name;
    uint64_t epoch;
    enum arbiter_role role;
    enum arbiter_ask ask;
};

// False: not one that is known.
static bool parse_question(const json_t *data, struct question *question)
{
    static const char *const asks[] = {"commit", "abort", "outcome"};
    const char *role = json_string_value(json_object_get(data, "role"));
    const json_t *epoch = json_object_get(data, "epoch");
    int ask = -1;
    question->id = json_string_value(json_object_get(data, "migration_id"));
    question->ask_name = json_string_value(json_object_get(data, "ask"));
    if (!question->id || !question->ask_name || !role || !json_is_integer(epoch))
        return false;
    for (int i = 0; i < 3; i++)
        if (strcmp(asks[i], question->ask_name) == 0)
            ask = i;
    question->epoch = (uint64_t)json_integer_value(epoch);
    question->role = strcmp(role, "source") == 0 ? ARBITER_SOURCE : ARBITER_TARGET;
    question->ask = (enum arbiter_ask)ask;
    return ask >= 0;
}

static enum arbiter_decision decide(struct arbiter_listener *listener,
                                    const struct question *question)
{
    struct record_view view;
    struct change change;
    struct error err;
    uint64_t revision;
    enum arbiter_decision decision = DECIDE_UNKNOWN;
    record_view_init(&view);
    // After a refusal the record has changed, and says what it is now.
    for (int i = 0; i < TRIES && decision == DECIDE_UNKNOWN; i++) {
        if (exchange_read_owner(&listener->exchange, listener->uuid, &view, &err))
            continue;
        decision = arbiter_step(&view, record_view_machine(&view, listener->uuid), question->epoch,
                                question->id, question->role, question->ask, &change);
        if (decision != DECIDE_COMMIT)
            continue;
        bool commits = question->ask == ASK_COMMIT;
        failure_point(commits ? "arbiter-before-done" : "arbiter-before-aborted");
        enum change_outcome outcome =
            exchange_commit(&listener->exchange, &change, &revision, &err);
        failure_point(commits ? "arbiter-after-done" : "arbiter-after-aborted");
        decision = arbiter_outcome(question->ask, outcome);
        if (outcome == CHANGE_COMMITTED)
            atomic_fetch_add(commits ? listener->moves_done : listener->moves_aborted, 1);
    }
    record_view_free(&view);
    return decision;
}

static void answer(struct arbiter_listener *listener, struct control_client *client,
                   const json_t *data)
{
    static const char *const names[] = {
        [DECIDE_UNKNOWN] = "unknown", [DECIDE_SOURCE] = "source", [DECIDE_TARGET] = "target"};
    struct question question;
    struct error err;
    if (!parse_question(data, &question))
        return;
    failure_point("arbiter-asked");
    enum arbiter_decision decision = decide(listener, &question);
    log_info("machine %s: the %s of its move asks: %s? %s", listener->uuid,
             question.role == ARBITER_SOURCE ? "source" : "target", question.ask_name,
             names[decision]);
    control_client_call(client, "migration.decide",
                        json_pack("{s:s, s:s, s:s}", "migration_id", question.id, "ask",
                                  question.ask_name, "decision", names[decision]),
                        NULL, 0, CALL_TIMEOUT_MS, NULL, &err);
    failure_point("arbiter-answered");
}

static void listen_to(struct arbiter_listener *listener, struct control_client *client)
{
    struct error err;
    if (control_client_call(client, "events.subscribe", NULL, NULL, 0, CALL_TIMEOUT_MS, NULL, &err))
        return;
    while (!atomic_load(&listener->stop)) {
        json_t *event = NULL;
        int r = control_client_next_event(client, LOOK_UP_MS, &event, &err);
        const char *name = json_string_value(json_object_get(event, "event"));
        if (name && strcmp(name, "migration.ask") == 0)
            answer(listener, client, json_object_get(event, "data"));
        json_decref(event);
        if (r && r != -ETIMEDOUT)
            return;
    }
}

static void *listener_main(void *opaque)
{
    struct arbiter_listener *listener = opaque;
    while (!atomic_load(&listener->stop)) {
        struct control_client *client = NULL;
        struct error err;
        if (control_client_connect(&client, listener->path, CALL_TIMEOUT_MS, &err) == 0)
            listen_to(listener, client);
        control_client_close(client);
        nanosleep(&(struct timespec){.tv_nsec = 20 * (long)NSEC_PER_MSEC}, NULL);
    }
    return NULL;
}

int arbiter_listener_start(struct arbiter_listener *listener, struct error *err)
{
    if (listener->running)
        return 0;
    atomic_store(&listener->stop, false);
    int r = pthread_create(&listener->thread, NULL, listener_main, listener);
    if (r)
        return error_set_errno(err, r, "starting a thread");
    listener->running = true;
    return 0;
}

void arbiter_listener_stop(struct arbiter_listener *listener)
{
    if (!listener->running)
        return;
    atomic_store(&listener->stop, true);
    pthread_join(listener->thread, NULL);
    listener->running = false;
    exchange_close(&listener->exchange);
}
