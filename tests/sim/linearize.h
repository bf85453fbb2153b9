// Is a history of operations on registers linearizable?
//
// The search of Wing and Gong with Lowe's memory of configurations seen: walk the calls and returns
// in order of time, take an operation whose result fits as the next one, undo when a return comes
// up whose operation wasn't taken. Registers are independent (Herlihy and Wing: linearizability is
// local), so each key is searched by itself, which keeps the search small.
#pragma once

#include "register.h"

#include <stddef.h>

#define SIM_NEVER UINT64_MAX

struct sim_operation {
    uint32_t client, key;
    enum sim_register_kind kind;
    uint64_t argument, expected;
    uint64_t result;           // if it returned
    uint64_t called, returned; // any total order, such as the number of the event; SIM_NEVER: may
                               // have happened or not
};

enum sim_verdict {
    SIM_LINEARIZABLE,
    SIM_NOT_LINEARIZABLE,
    SIM_UNDECIDED // more than `steps_max` steps
};

struct sim_linearizer; // memory of a search, kept from one to the next

struct sim_linearizer *sim_linearizer_create(void);
void sim_linearizer_destroy(struct sim_linearizer *linearizer);

// Judges all keys; `operations` is reordered. On SIM_NOT_LINEARIZABLE `*bad_key` is the first key
// that fails.
enum sim_verdict sim_linearize(struct sim_linearizer *linearizer, struct sim_operation *operations,
                               size_t count, uint64_t steps_max, uint32_t *bad_key);
