// ReadIndex (dissertation 6.4). A read takes the commit index of its arrival, and waits for a round
// of heartbeats that began after it: a majority that answers had no other leader by then, so
// nothing newer was acknowledged to anyone. Reads that arrive between two readies share a round.
#include <string.h>

#include "cluster/raft/raft_internal.h"

int raft_read_index(struct raft *raft, uint64_t context)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    if (raft->role != RAFT_LEADER)
        return RAFT_ERROR_NOT_LEADER;
    if (raft->log.commit < raft->term_start && !RAFT_BROKEN(raft, READ_BEFORE_NOOP))
        return RAFT_ERROR_NOT_READY;
    if (raft->read_count + raft->read_done_count >= raft->options.reads_max)
        return RAFT_ERROR_BUSY;
    raft->reads[raft->read_count++] = (struct raft_pending_read){
        .context = context, .index = raft->log.commit, .round = raft->round + 1};
    return 0;
}

void raft_read_begin_round(struct raft *raft)
{
    if (raft->role != RAFT_LEADER || raft->read_count == 0)
        return;
    if (raft->reads[raft->read_count - 1].round > raft->round)
        raft_heartbeat_all(raft);
    // Not only when replies come: a leader alone has its majority already, and may have become so
    // while reads wait.
    raft_read_confirm(raft);
}

void raft_read_confirm(struct raft *raft)
{
    uint64_t confirmed = raft_quorum_round(raft);
    uint32_t done = 0;

    if (RAFT_BROKEN(raft, READ_WITHOUT_CONFIRMATION))
        confirmed = raft->round;
    for (; done < raft->read_count && raft->reads[done].round <= confirmed; done++)
        raft->reads_done[raft->read_done_count++] = (struct raft_read){
            .context = raft->reads[done].context, .index = raft->reads[done].index};
    if (done == 0)
        return;
    raft->counters.reads_confirmed += done;
    raft->read_count -= done;
    memmove(raft->reads, raft->reads + done, raft->read_count * sizeof(*raft->reads));
}

void raft_read_fail_all(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->read_count; i++)
        raft->reads_done[raft->read_done_count++] =
            (struct raft_read){.context = raft->reads[i].context, .result = RAFT_ERROR_NOT_LEADER};
    raft->read_count = 0;
}
