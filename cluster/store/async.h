// A client of the store that never waits: on a libuv loop, with any number of requests under way
// and watches that go on by themselves. For ferryd's managers and agents, and whatever has a loop.
//
// What always holds:
//   - Every request that was accepted gets exactly one callback, within its time-out, never from
//     within the call that made it. What a refused call asked for was not done, and gets none.
//   - A write is sent once. If its connection is lost, or its time is up, before an answer came, it
//     ends as STORE_UNKNOWN. Refusals for want of a leader are tried again elsewhere until the time
//     is up; so are reads whose connection was lost.
//   - A watch delivers each change once, in order, over any number of lost connections, until it is
//     ended by its owner or by one call of `ended`.
//   - Requests of one client may overtake each other.
//
// Threads: everything on the loop's own. SIGPIPE must be ignored.
#pragma once

#include <uv.h>

#include "base/error.h"
#include "cluster/store/store.h"

struct store_async;
struct store_watch;

struct store_async_options {
    const char *addresses;                          // "HOST:PORT" or "unix:PATH", with commas
    const char *tls_certificate, *tls_key, *tls_ca; // all or none; not for Unix sockets
    const char *tls_name; // what the member's certificate must be for; NULL: any of the CA will do
    uint64_t timeout_ns;  // of each request; 0: 5 s
};

// Connects by itself, now and whenever it has to. The options are copied.
int store_async_create(struct store_async **async, uv_loop_t *loop,
                       const struct store_async_options *options, struct error *err);
// Drops everything, without callbacks. What is left frees itself while the loop runs on.
void store_async_destroy(struct store_async *async);

// The result lives until the callback returns. STORE_NO_LEADER: it was not done, nobody could.
typedef void store_async_done(void *context, const struct store_result *result);
typedef void store_async_lease_done(void *context, enum store_status status, uint64_t lease,
                                    uint64_t ttl);

// STORE_OK: under way. Anything else: refused, there will be no callback. The transaction is
// copied. `stale` is for reads: the state of the member that happens to be connected will do.
enum store_status store_async_txn(struct store_async *async, const struct store_txn *txn,
                                  bool stale, store_async_done *done, void *context);
// `lease` 0: any id; the TTL is in seconds. The granted ones come with the callback.
enum store_status store_async_grant(struct store_async *async, uint64_t lease, uint64_t ttl,
                                    store_async_lease_done *done, void *context);
enum store_status store_async_renew(struct store_async *async, uint64_t lease,
                                    store_async_lease_done *done, void *context);
enum store_status store_async_revoke(struct store_async *async, uint64_t lease,
                                     store_async_lease_done *done, void *context);

struct store_event {
    enum store_op_kind kind; // STORE_PUT or STORE_DELETE
    struct store_key_value key_value;
};

struct store_watch_callbacks {
    // All changes of whole revisions, the last of which is `revision`. The events live until the
    // callback returns.
    void (*events)(void *context, uint64_t revision, const struct store_event *events,
                   size_t count);
    // STORE_COMPACTED: what it needs next is gone, `oldest` can be had; read everything anew.
    // STORE_SLOW, STORE_INVALID, STORE_TOO_LARGE. The watch is gone when this returns.
    void (*ended)(void *context, enum store_status status, uint64_t oldest);
};

// From revision `from` on; 0: from now. NULL: out of memory, or not a range that can be.
struct store_watch *store_async_watch(struct store_async *async, struct store_bytes key,
                                      enum store_span span, struct store_bytes end, uint64_t from,
                                      const struct store_watch_callbacks *callbacks, void *context);
// May be called from its own callbacks, but not from `ended`.
void store_async_unwatch(struct store_watch *watch);

struct store_async_status {
    bool connected;
    char address[280]; // of the member it is, or was last, connected to
    unsigned requests, watches;
    uint64_t connections; // made so far
};
void store_async_inspect(const struct store_async *async, struct store_async_status *status);
