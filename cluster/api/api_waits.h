// Why a machine that should move doesn't: for people. The manager decides by the same
// (cluster/manager/moves.h, placement), from its own view.
#pragma once

#include "cluster/manager/moves.h"
#include "cluster/placement/placement.h"

struct waits {
    const struct record_view *view;
    struct moves moves;
    struct placement *placement; // made when it is needed
};

// 0 or -ENOMEM; to be freed by waits_free() in any case.
int waits_init(struct waits *waits, const struct record_view *view);
void waits_free(struct waits *waits);
// Placement knows machines by their UUIDs: puts the name in the place of the first one in a text.
void waits_name_machine(const struct record_view *view, char *text, size_t size);
// Whether it may wait for something, so that the text needs a view of everything: else one of the
// machine and its hosts will do.
bool waits_may(const struct record_view *view, const struct machine_entry *entry);
// "" when it waits for nothing. True: it waits for something that won't come by itself.
bool waits_text(struct waits *waits, const struct machine_entry *entry,
                char text[RECORD_TEXT_SIZE]);
