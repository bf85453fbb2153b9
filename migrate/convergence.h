// When a pre-copy migration switches over: a pure policy over what the last round measured.
//
// expected downtime = what is left / measured bandwidth + the fixed cost of a switch. It switches
// when that is within the target. When rounds don't get smaller, the guest writes faster than the
// link carries: its vCPUs are slowed, never beyond the limit, and at once so far that by what was
// measured they write 40 % of what the link carries: less for a short time costs a guest no more
// than a little for a long time, as what it may not do is what the link must catch up. At the
// time-out it cancels, or switches all the same when that was asked for.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum convergence_decision {
    CONVERGENCE_ROUND,   // send another round
    CONVERGENCE_SWITCH,  // the expected downtime is within the target
    CONVERGENCE_FORCE,   // it isn't, but the time-out has passed and force was asked for
    CONVERGENCE_TIMEOUT, // it isn't, and the time-out has passed: cancel
};

struct convergence {
    // Set by the caller.
    uint64_t downtime_ns; // the target
    uint64_t timeout_ns;  // 0 = none
    bool force_on_timeout;
    unsigned throttle_limit; // thousandths, below 1000
    uint64_t fixed_cost_ns;  // of a switch without any page
    // The policy's own.
    unsigned flat_rounds;          // in a row
    unsigned steps;                // how often it was slowed
    unsigned throttle;             // thousandths that the caller shall apply now
    uint64_t expected_downtime_ns; // of the last call
};

struct convergence_sample {
    uint64_t elapsed_ns; // since the start
    uint64_t remaining;  // bytes dirty now, that is after the round
    uint64_t sent;       // bytes that the round carried
    uint64_t round_ns;   // how long it took, until the target had applied it
    uint64_t bandwidth;  // bytes a second, from the rounds so far; 0 = unknown
    unsigned cpu_share;  // of a CPU, that each of those who write used, thousandths; 0 = unknown
};

enum convergence_decision convergence_decide(struct convergence *c,
                                             const struct convergence_sample *sample);
