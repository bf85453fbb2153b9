// The judge. It looks at the member that an event touched, after the event and between the steps of
// its owner's loop, and compares it with what it knows of all others, so that each look costs
// little and nothing is missed in between.
//
// What it knows: every entry that any log ever held (variants), the agreed log, who led each term,
// who durably voted for whom, what every member has on its disk. Rules are named in sim_fail() as
// in docs/raft-simulator.md.
#include "cluster.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

struct sim_variant {
    uint64_t term, content, previous_term;
    struct sim_variant *next;
};

// ---- configurations ----

struct sim_voters sim_voters_of(const struct raft_configuration *configuration)
{
    struct sim_voters voters = {0};

    for (uint32_t i = 0; i < configuration->count; i++) {
        uint32_t bit = 1u << ((configuration->members[i].id & 0xff) - 1);
        uint8_t roles = configuration->members[i].roles;

        voters.fresh |= roles & RAFT_VOTER ? bit : 0;
        voters.old |= roles & RAFT_VOTER_OLD ? bit : 0;
        voters.learners |= roles & RAFT_LEARNER ? bit : 0;
    }
    return voters;
}

static bool majority(uint32_t set, uint32_t present)
{
    return 2 * __builtin_popcount(set & present) > __builtin_popcount(set);
}

bool sim_quorum(const struct sim_voters *voters, uint32_t present)
{
    return majority(voters->fresh, present) && (voters->old == 0 || majority(voters->old, present));
}

static bool voters_equal(const struct sim_voters *a, const struct sim_voters *b)
{
    return a->fresh == b->fresh && a->old == b->old && a->learners == b->learners;
}

// ---- memory ----

static void grow(void **array, size_t *room, size_t need, size_t size)
{
    size_t fresh;

    if (need < *room)
        return;
    fresh = *room ? *room : 256;
    while (fresh <= need)
        fresh *= 2;
    *array = sim_reallocate(*array, fresh * size);
    memset((char *)*array + *room * size, 0, (fresh - *room) * size);
    *room = fresh;
}

void sim_checker_reset(struct sim_checker *checker)
{
    for (size_t i = 0; i < checker->variant_room; i++)
        while (checker->variants[i]) {
            struct sim_variant *variant = checker->variants[i];

            checker->variants[i] = variant->next;
            variant->next = checker->variant_pool;
            checker->variant_pool = variant;
        }
    if (checker->agreed)
        memset(checker->agreed, 0, (checker->agreed_last + 1) * sizeof(*checker->agreed));
    checker->agreed_last = 0;
    checker->term_count = 0;
    checker->leaders = 0;
    checker->highest_term = 0;
    grow((void **)&checker->agreed, &checker->agreed_room, 0, sizeof(*checker->agreed));
}

void sim_checker_free(struct sim_checker *checker)
{
    sim_checker_reset(checker);
    while (checker->variant_pool) {
        struct sim_variant *variant = checker->variant_pool;

        checker->variant_pool = variant->next;
        free(variant);
    }
    free(checker->variants);
    free(checker->agreed);
    free(checker->terms);
}

static struct sim_term *checker_term(struct sim_cluster *cluster, uint64_t term)
{
    struct sim_checker *checker = &cluster->checker;

    if (term > 1000000) {
        sim_fail(cluster, "terms", "term %llu is out of all bounds", (ull)term);
        term = 0;
    }
    grow((void **)&checker->terms, &checker->term_room, term, sizeof(*checker->terms));
    while (checker->term_count <= term) {
        memset(&checker->terms[checker->term_count], 0, sizeof(*checker->terms));
        checker->terms[checker->term_count++].leader = -1;
    }
    return &checker->terms[term];
}

static struct sim_variant *checker_variant(struct sim_checker *checker, uint64_t index,
                                           uint64_t term)
{
    struct sim_variant *variant = NULL;

    if (index < checker->variant_room)
        variant = checker->variants[index];
    while (variant && variant->term != term)
        variant = variant->next;
    return variant;
}

// ---- log matching ----

// If two logs hold an entry of the same index and term they are the same up to it. By induction
// over the index it is enough that for each (index, term) the content and the term before are the
// same wherever they appear.
static void check_matching(struct sim_member *member, uint64_t index, uint64_t term,
                           uint64_t content, uint64_t previous_term)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_checker *checker = &cluster->checker;
    struct sim_variant *variant = checker_variant(checker, index, term);

    if (variant) {
        if (variant->content != content || variant->previous_term != previous_term)
            sim_fail(cluster, "log matching",
                     "member %u writes entry %llu of term %llu, which another log holds with %s",
                     member->slot, (ull)index, (ull)term,
                     variant->content != content ? "other content" : "another entry before it");
        return;
    }
    if (term < previous_term)
        sim_fail(cluster, "log matching", "member %u: term %llu follows term %llu at %llu",
                 member->slot, (ull)term, (ull)previous_term, (ull)index);
    grow((void **)&checker->variants, &checker->variant_room, index, sizeof(*checker->variants));
    variant = checker->variant_pool;
    if (variant)
        checker->variant_pool = variant->next;
    else
        variant = sim_allocate(sizeof(*variant));
    *variant = (struct sim_variant){
        .term = term,
        .content = content,
        .previous_term = previous_term,
        .next = checker->variants[index],
    };
    checker->variants[index] = variant;
}

// ---- configurations in logs ----

static struct sim_logged_configuration *latest_configuration(struct sim_member *member)
{
    return &member->configurations[member->configuration_count - 1];
}

// What may follow what: a change of voters enters a joint configuration with the voters so far,
// leaves it for those that it names; only learners change in one step. At most one is uncommitted.
static void check_configuration_step(struct sim_member *member, const struct sim_voters *next,
                                     uint64_t index)
{
    const struct sim_logged_configuration *last = latest_configuration(member);
    const struct sim_voters *before = &last->voters;
    struct sim_cluster *cluster = member->cluster;
    bool fits;

    if (before->fresh ==
        0) // a server that was added doesn't have the configuration of the founding
        fits = true;
    else if (before->old)
        fits = next->old == 0 && next->fresh == before->fresh;
    else if (next->old)
        fits = next->old == before->fresh;
    else
        fits = next->fresh == before->fresh;
    if (!fits)
        sim_fail(cluster, "joint consensus",
                 "member %u: at %llu voters %x (old %x) follow voters %x (old %x)", member->slot,
                 (ull)index, next->fresh, next->old, before->fresh, before->old);
    if (next->fresh == 0)
        sim_fail(cluster, "joint consensus", "member %u: no voters at %llu", member->slot,
                 (ull)index);
    if (last->index > cluster->checker.agreed_last)
        sim_fail(cluster, "one change at a time",
                 "member %u: a configuration at %llu while that at %llu is not committed",
                 member->slot, (ull)index, (ull)last->index);
}

static void push_configuration(struct sim_member *member, uint64_t index,
                               const struct sim_voters *voters)
{
    if (member->configuration_count == SIM_CONFIGS) {
        memmove(member->configurations, member->configurations + 1,
                (SIM_CONFIGS - 1) * sizeof(member->configurations[0]));
        member->configuration_count--;
    }
    member->configurations[member->configuration_count++] =
        (struct sim_logged_configuration){.index = index, .voters = *voters};
}

static bool decode_voters(struct sim_member *member, uint64_t index, const uint8_t *data,
                          size_t length, struct sim_voters *voters)
{
    struct raft_configuration configuration;

    if (raft_configuration_decode(&configuration, data, length) != 0) {
        sim_fail(member->cluster, "configuration", "member %u: entry %llu is no configuration",
                 member->slot, (ull)index);
        return false;
    }
    *voters = sim_voters_of(&configuration);
    return true;
}

static void reset_configurations(struct sim_member *member)
{
    struct sim_voters voters = sim_voters_of(&member->journal.current.snapshot.configuration);

    member->configuration_count = 0;
    push_configuration(member, member->journal.current.snapshot.last.index, &voters);
}

// The core's configuration must be the latest of its log, as soon as all of its log was written.
static void check_configuration(struct sim_member *member, const struct raft_status *status)
{
    const struct sim_logged_configuration *latest = latest_configuration(member);

    if (member->writing || status->durable != status->last.index)
        return;
    if (!voters_equal(&latest->voters, &member->view.voters))
        sim_fail(member->cluster, "latest configuration",
                 "member %u goes by voters %x (old %x) of %llu, its log has %x (old %x) at %llu",
                 member->slot, member->view.voters.fresh, member->view.voters.old,
                 (ull)status->configuration_index, latest->voters.fresh, latest->voters.old,
                 (ull)latest->index);
}

// ---- leaders and commits ----

static bool member_has(struct sim_member *member, const struct raft_status *status, uint64_t index)
{
    return index <= status->before.index ||
           raft_log_term(member->raft, index) == member->cluster->checker.agreed[index].term;
}

// The last index that was committed in a term before `term`. Commit terms don't fall along the log.
static uint64_t committed_before(const struct sim_checker *checker, uint64_t term)
{
    uint64_t index = checker->agreed_last;

    while (index > 0 && checker->agreed[index].commit_term >= term)
        index--;
    return index;
}

static void check_elected(struct sim_member *member, const struct raft_status *status)
{
    struct sim_cluster *cluster = member->cluster;
    uint64_t term = status->hard_state.term, must = committed_before(&cluster->checker, term);
    struct sim_term *record = checker_term(cluster, term);

    SIM_TRACE(cluster, "member %u leads term %llu, log ends at %llu", member->slot, (ull)term,
              (ull)status->last.index);
    if (record->leader >= 0 && record->leader != (int)member->slot)
        sim_fail(cluster, "election safety", "members %d and %u both lead term %llu",
                 record->leader, member->slot, (ull)term);
    record->leader = (int)member->slot;
    if (!sim_quorum(&member->view.voters, record->votes[member->slot]))
        sim_fail(cluster, "election by majority",
                 "member %u leads term %llu with durable votes %x of voters %x (old %x)",
                 member->slot, (ull)term, record->votes[member->slot], member->view.voters.fresh,
                 member->view.voters.old);
    if (must > 0 && !member_has(member, status, must))
        sim_fail(cluster, "leader completeness",
                 "member %u leads term %llu without entry %llu, committed in term %llu",
                 member->slot, (ull)term, (ull)must,
                 (ull)cluster->checker.agreed[must].commit_term);
}

static uint32_t members_holding(struct sim_cluster *cluster, uint64_t index, uint64_t term)
{
    uint32_t holding = 0;

    for (unsigned i = 0; i < cluster->member_count; i++)
        if (sim_journal_holds(&cluster->members[i].journal, index, term))
            holding |= 1u << i;
    return holding;
}

// Entries that nobody knew to be committed. Whoever is first to know led when the event began.
static void check_new_commits(struct sim_member *member, const struct raft_status *status,
                              const struct sim_voters *voters)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_checker *checker = &cluster->checker;
    uint64_t term = status->hard_state.term, index;

    if (status->role != RAFT_LEADER && member->view.role != RAFT_LEADER)
        sim_fail(cluster, "commit", "member %u takes %llu for committed, no leader does",
                 member->slot, (ull)status->commit);
    grow((void **)&checker->agreed, &checker->agreed_room, status->commit,
         sizeof(*checker->agreed));
    for (index = checker->agreed_last + 1; index <= status->commit; index++) {
        uint64_t entry_term = raft_log_term(member->raft, index);
        struct sim_variant *variant = checker_variant(checker, index, entry_term);

        if (!variant)
            sim_fail(cluster, "commit", "member %u commits entry %llu that nobody wrote",
                     member->slot, (ull)index);
        checker->agreed[index] = (struct sim_agreed){
            .term = entry_term,
            .content = variant ? variant->content : 0,
            .commit_term = term,
        };
        cluster->counters.entries_committed++;
    }
    checker->agreed_last = status->commit;
    if (checker->agreed[status->commit].term != term)
        sim_fail(cluster, "commit rule", "member %u commits entry %llu of term %llu in term %llu",
                 member->slot, (ull)status->commit, (ull)checker->agreed[status->commit].term,
                 (ull)term);
    if (!sim_quorum(voters, members_holding(cluster, status->commit, term)))
        sim_fail(cluster, "durable majority",
                 "member %u commits entry %llu of term %llu, durable on %x, voters %x (old %x)",
                 member->slot, (ull)status->commit, (ull)term,
                 members_holding(cluster, status->commit, term), voters->fresh, voters->old);
    for (uint32_t left = checker->leaders; left; left &= left - 1) {
        struct sim_member *other = &cluster->members[__builtin_ctz(left)];
        struct raft_status its;

        if (other == member || other->view.term <= term)
            continue;
        raft_inspect(other->raft, &its);
        if (!member_has(other, &its, status->commit))
            sim_fail(cluster, "leader completeness",
                     "member %u leads term %llu without entry %llu, committed in term %llu",
                     other->slot, (ull)other->view.term, (ull)status->commit, (ull)term);
    }
}

static void check_commit(struct sim_member *member, const struct raft_status *status,
                         const struct sim_voters *voters)
{
    struct sim_cluster *cluster = member->cluster;

    if (status->commit > status->last.index) {
        sim_fail(cluster, "commit", "member %u: commit index %llu, log ends at %llu", member->slot,
                 (ull)status->commit, (ull)status->last.index);
        return;
    }
    if (status->role == RAFT_LEADER || member->view.role == RAFT_LEADER)
        member->commit_allowed = status->commit;
    else if (status->commit > member->commit_allowed)
        sim_fail(cluster, "commit", "member %u: commit index %llu, messages covered up to %llu",
                 member->slot, (ull)status->commit, (ull)member->commit_allowed);
    if (status->commit > cluster->checker.agreed_last)
        check_new_commits(member, status, voters);
    else if (!member_has(member, status, status->commit))
        sim_fail(cluster, "state machine safety",
                 "member %u takes entry %llu of term %llu for committed, agreed is term %llu",
                 member->slot, (ull)status->commit,
                 (ull)raft_log_term(member->raft, status->commit),
                 (ull)cluster->checker.agreed[status->commit].term);
}

// ---- looking at a member ----

static void check_monotonic(struct sim_member *member, const struct raft_status *status)
{
    struct sim_cluster *cluster = member->cluster;
    const struct sim_view *view = &member->view;

    if (status->hard_state.term < view->term)
        sim_fail(cluster, "monotonic term", "member %u: term %llu after %llu", member->slot,
                 (ull)status->hard_state.term, (ull)view->term);
    if (status->commit < view->commit)
        sim_fail(cluster, "monotonic commit", "member %u: commit %llu after %llu", member->slot,
                 (ull)status->commit, (ull)view->commit);
    if (status->applied < view->applied || status->applied > status->commit)
        sim_fail(cluster, "monotonic applied", "member %u: applied %llu after %llu, commit %llu",
                 member->slot, (ull)status->applied, (ull)view->applied, (ull)status->commit);
    // While a snapshot is being installed the log begins beyond what is applied.
    if (status->last.index < status->commit ||
        (status->before.index > status->applied && status->durable >= status->before.index))
        sim_fail(cluster, "log bounds", "member %u: log %llu..%llu, applied %llu, commit %llu",
                 member->slot, (ull)status->before.index, (ull)status->last.index,
                 (ull)status->applied, (ull)status->commit);
}

void sim_checker_observe(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_view *view = &member->view;
    struct sim_voters voters = view->voters; // by which the event was decided
    struct raft_status status;
    bool elected;

    raft_inspect(member->raft, &status);
    cluster->counters.steps++;
    check_monotonic(member, &status);
    elected = status.role == RAFT_LEADER &&
              (view->role != RAFT_LEADER || view->term != status.hard_state.term);
    view->voters = sim_voters_of(status.configuration);
    if (elected) {
        check_elected(member, &status);
        if (view->role != RAFT_LEADER)
            voters = view->voters;
    } else if (status.role == RAFT_LEADER &&
               (status.last.index < view->last.index ||
                raft_log_term(member->raft, view->last.index) != view->last.term)) {
        sim_fail(cluster, "leader append-only", "member %u leads term %llu and lost entry %llu",
                 member->slot, (ull)view->term, (ull)view->last.index);
    }
    if (view->role == RAFT_FOLLOWER &&
        (status.role == RAFT_PRE_CANDIDATE || status.role == RAFT_CANDIDATE))
        sim_checker_campaign(member, &status);
    if (status.role == RAFT_LEADER)
        cluster->checker.leaders |= 1u << member->slot;
    else
        cluster->checker.leaders &= ~(1u << member->slot);
    if (status.commit > view->commit)
        check_commit(member, &status, &voters);
    if (view->role == RAFT_LEADER && status.role == RAFT_FOLLOWER)
        SIM_TRACE(cluster, "member %u no longer leads term %llu", member->slot, (ull)view->term);
    if (status.hard_state.voted_for != RAFT_NONE &&
        (status.hard_state.voted_for != view->voted_for || status.hard_state.term != view->term))
        member->times.quiet_ticks = 0; // a vote was granted, it leaves when it is durable
    view->voted_for = status.hard_state.voted_for;
    view->role = status.role;
    view->term = status.hard_state.term;
    view->commit = status.commit;
    view->applied = status.applied;
    view->last = status.last;
    view->before = status.before;
    view->configuration_index = status.configuration_index;
    if (view->term > cluster->checker.highest_term)
        cluster->checker.highest_term = view->term;
    check_configuration(member, &status);
    // Until an entry of its own term is committed it may be the only one who can lead.
    if (status.role == RAFT_LEADER && !(view->voters.fresh >> member->slot & 1) &&
        !view->voters.old && status.configuration_index <= status.commit &&
        cluster->checker.agreed[status.commit].term == view->term)
        sim_fail(cluster, "removed leader", "member %u leads, voters %x are committed at %llu",
                 member->slot, view->voters.fresh, (ull)status.configuration_index);
}

static void note_vote(struct sim_member *member, const struct raft_hard_state *hard_state)
{
    struct sim_cluster *cluster = member->cluster;
    struct raft_hard_state *durable = &member->durable_hard_state;

    if (hard_state->term < durable->term ||
        (hard_state->term == durable->term && durable->voted_for != RAFT_NONE &&
         hard_state->voted_for != durable->voted_for))
        sim_fail(cluster, "one vote a term",
                 "member %u: term %llu, vote %llx follow term %llu, vote %llx", member->slot,
                 (ull)hard_state->term, (ull)hard_state->voted_for, (ull)durable->term,
                 (ull)durable->voted_for);
    *durable = *hard_state;
    if (hard_state->voted_for != RAFT_NONE)
        checker_term(cluster, hard_state->term)
            ->votes[sim_cluster_member(cluster, hard_state->voted_for)->slot] |= 1u << member->slot;
}

void sim_checker_started(struct sim_member *member)
{
    const struct sim_journal *journal = &member->journal;
    struct raft_status status;
    uint64_t previous = journal->before.term;

    if (!sim_journal_holds(journal, member->durable_last.index, member->durable_last.term))
        sim_fail(member->cluster, "durability", "member %u lost entry %llu that was durable",
                 member->slot, (ull)member->durable_last.index);
    reset_configurations(member);
    for (uint64_t i = journal->before.index + 1; i <= journal->last_index; i++) {
        const struct sim_stored_entry *entry = sim_journal_entry(journal, i);
        struct sim_voters voters;

        check_matching(member, i, entry->term, entry->content, previous);
        previous = entry->term;
        if (entry->type == RAFT_ENTRY_CONFIGURATION && i > journal->current.snapshot.last.index &&
            decode_voters(member, i, entry->data, entry->length, &voters))
            push_configuration(member, i, &voters);
    }
    note_vote(member, &journal->hard_state);
    memset(&member->view, 0, sizeof(member->view));
    sim_checker_time_reset(member);
    memset(member->vote_asked, 0, sizeof(member->vote_asked));
    memset(member->pre_vote_asked, 0, sizeof(member->pre_vote_asked));
    raft_inspect(member->raft, &status);
    if (status.commit > member->cluster->checker.agreed_last)
        sim_fail(member->cluster, "commit",
                 "member %u starts with commit index %llu, agreed is %llu", member->slot,
                 (ull)status.commit, (ull)member->cluster->checker.agreed_last);
    member->commit_allowed = status.commit;
    member->view.voters = sim_voters_of(status.configuration);
    sim_checker_observe(member);
}

// Remembers what must still be there at the next start.
void sim_checker_stopped(struct sim_member *member)
{
    member->cluster->checker.leaders &= ~(1u << member->slot);
    member->view.role = RAFT_FOLLOWER;
    member->durable_last = (struct raft_position){0};
    if (!member->writing && member->journal.last_index > member->journal.before.index) {
        member->durable_last.index = member->journal.last_index;
        member->durable_last.term =
            sim_journal_entry(&member->journal, member->journal.last_index)->term;
    }
}

// ---- writes ----

// An agreed entry on the disk of a member may count for the majority if that member has reached the
// term of its agreement, on its disk as well: before that it can't have acknowledged anything in
// that term. Then no write may take the entry away. To a member that is behind a leader of an
// earlier term, elected late, may still do so; also to one whose disk is, which has heard of the
// later term, and still has to write what it took from the earlier leader.
static void check_overwrite(struct sim_member *member, const struct raft_write *write)
{
    const struct sim_checker *checker = &member->cluster->checker;
    const struct sim_journal *journal = &member->journal;
    uint64_t first = write->entries[0].index, last = first + write->entry_count - 1;
    uint64_t held = journal->last_index;

    if (held > checker->agreed_last)
        held = checker->agreed_last;
    while (held >= first && (checker->agreed[held].commit_term > member->durable_hard_state.term ||
                             !sim_journal_holds(journal, held, checker->agreed[held].term)))
        held--;
    if (held >= first &&
        (held > last || write->entries[held - first].term != checker->agreed[held].term))
        sim_fail(member->cluster, "durability", "member %u overwrites entry %llu, which is agreed",
                 member->slot, (ull)held);
}

void sim_checker_write(struct sim_member *member, const struct raft_write *write)
{
    uint64_t previous;

    if (member->writing)
        sim_fail(member->cluster, "one write", "member %u begins a write during another",
                 member->slot);
    if (write->chunk && write->chunk->done) {
        struct sim_voters voters = sim_voters_of(write->chunk->configuration);

        member->configuration_count = 0;
        push_configuration(member, write->chunk->last.index, &voters);
    }
    if (write->entry_count == 0)
        return;
    if (!write->chunk)
        check_overwrite(member, write);
    while (member->configuration_count > 1 &&
           latest_configuration(member)->index >= write->entries[0].index)
        member->configuration_count--;
    previous = raft_log_term(member->raft, write->entries[0].index - 1);
    for (size_t i = 0; i < write->entry_count; i++) {
        const struct raft_entry *entry = &write->entries[i];
        struct sim_voters voters;

        check_matching(member, entry->index, entry->term, sim_entry_content(entry), previous);
        previous = entry->term;
        if (entry->type != RAFT_ENTRY_CONFIGURATION ||
            !decode_voters(member, entry->index, entry->data, entry->length, &voters))
            continue;
        check_configuration_step(member, &voters, entry->index);
        push_configuration(member, entry->index, &voters);
    }
}

void sim_checker_written(struct sim_member *member)
{
    const struct sim_journal *journal = &member->journal;

    note_vote(member, &journal->hard_state);
}

// ---- the state machine ----

void sim_checker_apply(struct sim_member *member, const struct raft_entry *entry, uint64_t content)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_checker *checker = &cluster->checker;

    cluster->counters.entries_applied++;
    if (entry->index != member->machine.applied + 1)
        sim_fail(cluster, "apply in order", "member %u applies %llu after %llu", member->slot,
                 (ull)entry->index, (ull)member->machine.applied);
    else if (entry->index > checker->agreed_last)
        sim_fail(cluster, "state machine safety", "member %u applies %llu, not committed",
                 member->slot, (ull)entry->index);
    else if (checker->agreed[entry->index].term != entry->term ||
             checker->agreed[entry->index].content != content)
        sim_fail(cluster, "state machine safety", "member %u applies another entry %llu",
                 member->slot, (ull)entry->index);
    if (!sim_journal_holds(&member->journal, entry->index, entry->term))
        sim_fail(cluster, "apply what is durable",
                 "member %u applies %llu, which is not durable there", member->slot,
                 (ull)entry->index);
}

void sim_checker_applied(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_agreed *agreed;

    if (member->machine.applied > cluster->checker.agreed_last)
        return;
    agreed = &cluster->checker.agreed[member->machine.applied];
    if (agreed->applied && agreed->chain != member->machine.chain)
        sim_fail(cluster, "state machine safety", "member %u differs in state after %llu",
                 member->slot, (ull)member->machine.applied);
    agreed->applied = true;
    agreed->chain = member->machine.chain;
}

void sim_checker_installed(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;

    SIM_TRACE(cluster, "member %u installs a snapshot of %llu", member->slot,
              (ull)member->machine.applied);
    if (member->machine.applied > cluster->checker.agreed_last)
        sim_fail(cluster, "snapshot", "member %u installs %llu, agreed is %llu", member->slot,
                 (ull)member->machine.applied, (ull)cluster->checker.agreed_last);
    if (member->machine.applied < member->view.applied)
        sim_fail(cluster, "snapshot", "member %u goes back from %llu to %llu", member->slot,
                 (ull)member->view.applied, (ull)member->machine.applied);
    if (member->machine.applied != member->journal.current.snapshot.last.index)
        sim_fail(cluster, "snapshot", "member %u: a snapshot named %llu holds %llu", member->slot,
                 (ull)member->journal.current.snapshot.last.index, (ull)member->machine.applied);
    sim_checker_applied(member);
}
