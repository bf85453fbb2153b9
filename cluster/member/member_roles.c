// Who is a voter. The records say who shall be; Raft's configuration follows them, step by step:
// newcomers become learners at once, and all that changes among the voters is one joint change,
// made when those that come have caught up.
#include <string.h>

#include "base/log.h"
#include "cluster/member/member_internal.h"

// What is to be decided about the members of one configuration.
struct plan {
    unsigned count, voters;
    struct member_record records[RAFT_MEMBERS_MAX];
    uint8_t now[RAFT_MEMBERS_MAX]; // roles
    struct raft_member wanted[RAFT_MEMBERS_MAX];
};

// One that isn't heard from at present would hold up the whole change.
static bool has_caught_up(struct member *member, uint64_t id)
{
    struct raft_peer_status peer;
    return raft_inspect_peer(member->raft, id, &peer) == 0 && peer.caught_up && peer.active;
}

// Voters have the CA's key: it is sent to who is to become one, and waited for.
static bool can_become_voter(struct member *member, uint64_t id)
{
    return has_caught_up(member, id) && member_ca_is_with(member, member_peer_find(member, id));
}

// Voters that shall be none stay until those that take their places can: else a replacement would
// be two changes, with fewer voters in between.
static bool somebody_is_awaited(struct member *member, const struct plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++)
        if (plan->records[i].wish == MEMBER_WISH_VOTER && !(plan->now[i] & RAFT_VOTER) &&
            !can_become_voter(member, plan->records[i].id))
            return true;
    return false;
}

static void follow_wishes(struct member *member, struct plan *plan)
{
    bool hold = somebody_is_awaited(member, plan);
    for (unsigned i = 0; i < plan->count; i++) {
        uint64_t id = plan->records[i].id;
        enum member_wish wish = plan->records[i].wish;
        bool voter = plan->now[i] & RAFT_VOTER;
        if (voter && wish == MEMBER_WISH_LEARNER && !hold)
            voter = false;
        else if (!voter && wish == MEMBER_WISH_VOTER && plan->now[i])
            voter = can_become_voter(member, id);
        plan->wanted[i] = (struct raft_member){id, voter ? RAFT_VOTER : RAFT_LEARNER};
        plan->voters += voter;
    }
}

// An even number of voters survives no more losses than the odd one below it, and needs one more
// for each decision. Nobody is made a learner by this: whoever was removed may come back.
static void fill_to_odd(struct member *member, struct plan *plan)
{
    unsigned able[RAFT_MEMBERS_MAX], free = 0;
    for (unsigned i = 0; i < plan->count; i++)
        if (plan->records[i].wish == MEMBER_WISH_AUTO && plan->wanted[i].roles == RAFT_LEARNER &&
            plan->now[i] && has_caught_up(member, plan->records[i].id))
            able[free++] = i;
    unsigned target = plan->voters + free;
    if (target > MEMBER_VOTERS_AUTO)
        target = MEMBER_VOTERS_AUTO;
    if (target % 2 == 0)
        target--;
    // All of them or none: one alone would make an even number.
    unsigned more = target > plan->voters ? target - plan->voters : 0;
    bool ready = true;
    for (unsigned i = 0; i < more; i++)
        ready = can_become_voter(member, plan->records[able[i]].id) && ready;
    for (unsigned i = 0; ready && i < more; i++, plan->voters++)
        plan->wanted[able[i]].roles = RAFT_VOTER;
}

void member_reconcile(struct member *member)
{
    struct plan plan = {.voters = 0};
    struct raft_status status;
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER || raft_configuration_is_joint(status.configuration) ||
        status.configuration_index > status.commit || status.transfer_target != RAFT_NONE)
        return;
    plan.count = member_list_records(member, plan.records, RAFT_MEMBERS_MAX);
    for (unsigned i = 0; i < plan.count; i++)
        plan.now[i] = raft_configuration_roles(status.configuration, plan.records[i].id);
    follow_wishes(member, &plan);
    fill_to_odd(member, &plan);
    bool same = plan.count == status.configuration->count;
    for (unsigned i = 0; i < plan.count; i++)
        same = same && plan.now[i] == plan.wanted[i].roles;
    if (same || plan.voters == 0)
        return;
    // A refusal (busy, not ready) is tried again with the next tick.
    struct raft_position position;
    if (raft_propose_configuration(member->raft, plan.wanted, plan.count, &position) == 0)
        log_info("changing the members: %u voters of %u", plan.voters, plan.count);
}

enum store_status member_request_roles(struct member *member, struct client *client,
                                       uint64_t request, struct byte_reader *body)
{
    uint8_t keys[RAFT_MEMBERS_MAX][MEMBER_KEY_SIZE];
    struct byte_writer values[RAFT_MEMBERS_MAX];
    struct store_op ops[RAFT_MEMBERS_MAX];
    enum store_status status = STORE_OK;
    unsigned made = 0, count = byte_reader_u16(body);
    if (count == 0 || count > RAFT_MEMBERS_MAX)
        return STORE_INVALID;
    for (; made < count && status == STORE_OK; made++) {
        struct member_record record;
        uint64_t id = byte_reader_u64(body);
        uint8_t wish = byte_reader_u8(body);
        byte_writer_init(&values[made]);
        if (body->failed || wish > MEMBER_WISH_LEARNER)
            status = STORE_INVALID;
        else if (!member_find_record(member, id, &record))
            status = STORE_MEMBER_NOT_FOUND;
        if (status != STORE_OK)
            continue;
        record.wish = (enum member_wish)wish;
        member_key(keys[made], id);
        member_record_encode(&values[made], &record);
        ops[made] = (struct store_op){.kind = STORE_PUT,
                                      .key = {keys[made], MEMBER_KEY_SIZE},
                                      .value = {values[made].data, values[made].length}};
        if (values[made].failed)
            status = STORE_BUSY;
    }
    struct store_txn txn = {.then = ops, .then_count = count};
    if (status == STORE_OK)
        status = member_propose_txn(member, &txn, client, request, REQUEST_MEMBER_ROLES);
    while (made > 0)
        byte_writer_free(&values[--made]);
    return status;
}
