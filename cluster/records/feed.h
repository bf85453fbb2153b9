// A view that is kept up to date by what changes, rather than read anew: for the threads of ferryd
// that look several times a second, at records of which few change.
//
// What a caller gets is what a linearizable read would have given it: each refresh asks the store,
// linearizably, for its revision, and takes changes from a watch at this host's own member until
// the view has them all. Where the watch fails (its member lost the leader, a compaction was
// faster, an older member doesn't know how) everything is read once more.
//
// Who changes the view between refreshes may put in what has been committed (record_view_apply),
// and nothing else: the view stays. One thread.
#pragma once

#include "cluster/records/exchange.h"

struct record_feed {
    struct store_client *client; // the watch's; NULL: none, everything is to be read
    uint64_t through;            // up to which revision its events have been taken
    uint64_t placed;  // grows with each change that placement looks at (cluster/manager/placer.h)
    uint64_t rereads; // how often everything was read
};

// `view` was initialised, and is this feed's from the first refresh on. 0; -EAGAIN: no answer or no
// leader; or another error, with a sentence each.
int record_feed_refresh(struct record_feed *feed, struct exchange *exchange,
                        struct record_view *view, struct error *err);
void record_feed_close(struct record_feed *feed);
