// Simulated time and the queue of what happens next.
//
// Time is a count of microseconds since the start of the run and moves only from event to event.
// Two events of the same instant run in the order in which they were added, so the order of a run
// is fully determined. Events are never removed: whoever adds one that may become stale hands in a
// generation number and compares it when the event runs.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t sim_time; // microseconds

#define SIM_MILLISECOND ((sim_time)1000)
#define SIM_SECOND      ((sim_time)1000000)

typedef void sim_event_run(void *owner, uint64_t argument);

struct sim_event {
    sim_time when;
    uint64_t order; // how many events were added before: breaks ties
    sim_event_run *run;
    void *owner;
    uint64_t argument;
};

struct sim_events {
    struct sim_event *heap; // four children a node: fewer cache lines than two when sifting down
    size_t count, room;
    sim_time now;
    uint64_t added, done;
};

void sim_events_init(struct sim_events *events);
void sim_events_free(struct sim_events *events);

// Empties the queue and sets the time to 0; keeps the memory for the next run.
void sim_events_reset(struct sim_events *events);

// Runs `run(owner, argument)` after `delay`. The queue grows as needed; running out of memory ends
// the process, which in a test program is the right thing.
void sim_events_add(struct sim_events *events, sim_time delay, sim_event_run *run, void *owner,
                    uint64_t argument);

// Runs the next event. False when there is none.
bool sim_events_step(struct sim_events *events);

// malloc and realloc that end the process instead of failing; for test code only.
void *sim_allocate(size_t size);
void *sim_reallocate(void *memory, size_t size);
