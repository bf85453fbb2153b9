// Records to and from the store, by a client that waits: for the threads of ferryd that do nothing
// else meanwhile.
#pragma once

#include <time.h>

#include "cluster/records/view.h"
#include "cluster/store/client.h"

// How a thread reaches the store: its own client, made again when the addresses change. One thread.
struct exchange {
    const char *local; // always asked first; may be NULL
    const char *certificate, *key, *ca;
    uint64_t timeout_ns;
    struct timespec certificate_time; // of the file of which the client was made
    char addresses[2048];             // of which the client was made
    struct store_client *client;
};

void exchange_close(struct exchange *exchange);
// Adds the addresses that hosts give in a view, in case the local one is gone. 0 or a sentence.
int exchange_learn(struct exchange *exchange, const struct record_view *view, struct error *err);

// Everything that a view holds, as of one revision, linearizable. 0; -EAGAIN: no answer or no
// leader; or another error, with a sentence each. A record that can't be decoded is an error: what
// isn't understood must not look as if it weren't there.
int exchange_read(struct exchange *exchange, struct record_view *view, struct error *err);
// Of machines only those behind the UUID `after` ("": from the first one on): up to about `limit`,
// through `last` if there are `more`. Hosts and the rest as exchange_read(), and as it in all else.
int exchange_read_page(struct exchange *exchange, const char *after, unsigned limit,
                       struct record_view *view, char last[UUID_TEXT_SIZE], bool *more,
                       struct error *err);
// One machine, by its name or UUID, the hosts that its owner record named just before, and the
// settings, as of one revision; without it where there is none. As exchange_read().
int exchange_read_machine(struct exchange *exchange, const char *name, struct record_view *view,
                          struct error *err);
// One record; `record->mod` is 0 when it isn't there. What it owns is the caller's.
int exchange_get(struct exchange *exchange, enum record_kind kind, const char *name,
                 struct record *record, struct error *err);
// What an arbiter looks at (cluster/agent/agent.h): the owner record of one machine, and the lives
// of the hosts that it names, as of one revision. As exchange_read().
int exchange_read_owner(struct exchange *exchange, const char *uuid, struct record_view *view,
                        struct error *err);
// The store's revision at some moment after the call, linearizably. As exchange_read().
int exchange_revision(struct exchange *exchange, uint64_t *revision, struct error *err);
// Puts a record into a view as the store has it. What can't be decoded is an error.
int record_view_take(struct record_view *view, const struct store_key_value *kv, struct error *err);
// `revision` is set when it was committed. With CHANGE_UNKNOWN the sentence says why.
enum change_outcome exchange_commit(struct exchange *exchange, const struct change *change,
                                    uint64_t *revision, struct error *err);
