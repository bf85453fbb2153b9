// Deliberately broken variants of the core, each breaking one rule of raft.h. They prove that the
// simulator would notice: a build with -DRAFT_MUTANTS can switch one on, and the simulator must
// find a seed that catches it. Builds without that flag contain none of this.
//
// X(NAME, "rule", "what it does wrong")
#pragma once

#define RAFT_MUTANT_LIST(X)                                                                        \
    X(APPLY_BEFORE_DURABLE, "ALL1", "applies what is committed but not yet durable here")          \
    X(STALE_TERM_COUNTS, "ALL3", "counts replies to requests of an earlier term of its own")       \
    X(HIGHER_TERM_SILENT, "ALL3", "ignores requests of a lower-term leader without an answer")     \
    X(VOTE_BEFORE_DURABLE, "ALL4", "answers and asks for votes before term and vote are durable")  \
    X(ACKNOWLEDGE_BEFORE_DURABLE, "ALL4", "acknowledges entries before they are durable")          \
    X(LEADER_COUNTS_UNWRITTEN, "ALL4", "counts its own entries as stored before they are durable") \
    X(SNAPSHOT_BEFORE_DURABLE, "ALL4", "acknowledges a snapshot before it is durable")             \
    X(TIMER_RESET_BY_REFUSED_VOTE, "FOL1", "restarts the election timer for votes it refuses")     \
    X(ELECTION_NOT_RANDOM, "CAND4", "always uses the least election time-out")                     \
    X(VOTE_TWICE, "VOTE2", "forgets whom it voted for in this term")                               \
    X(VOTE_NOT_WRITTEN, "VOTE2", "never writes the vote down, only the term")                      \
    X(VOTE_TO_BEHIND, "VOTE3", "votes for a candidate whose log is behind")                        \
    X(VOTE_BY_LENGTH, "VOTE3", "compares logs by their length alone")                              \
    X(VOTE_MEMBERS_ONLY, "VOTE4", "ignores candidates outside its own configuration")              \
    X(LEARNER_REFUSES_VOTE, "VOTE4", "a learner never votes")                                      \
    X(NO_PRE_VOTE, "PRE1", "campaigns without asking first, and ignores LEASE1")                   \
    X(PRE_VOTE_TO_BEHIND, "PRE2", "grants pre-votes to candidates whose log is behind")            \
    X(PRE_VOTE_GRANT_OWN_TERM, "PRE2", "a granted pre-vote carries the voter's own term")          \
    X(NO_CHECK_QUORUM, "QUORUM1", "leads on without hearing from a majority")                      \
    X(CHECK_QUORUM_ONE_MAJORITY, "QUORUM1", "in a joint configuration asks only C_new")            \
    X(APPEND_WITHOUT_CHECK, "APP2", "takes entries whatever stands before them")                   \
    X(TRUNCATE_ON_MATCH, "APP3", "removes what follows entries that it has already")               \
    X(COMMIT_TO_LAST_INDEX, "APP5", "commits up to its last entry instead of the last covered")    \
    X(COMMIT_GOES_BACK, "APP5", "takes a lower commit index from a late request")                  \
    X(HEARTBEAT_COMMIT_UNBOUNDED, "APP6", "heartbeats carry the leader's commit as it is")         \
    X(PROGRESS_GOES_BACK, "LEAD4", "late successes move match and next index back")                \
    X(COMMIT_OLD_TERM, "LEAD5", "commits entries of earlier terms by counting (Figure 8)")         \
    X(COMMIT_WITHOUT_MAJORITY, "LEAD5", "commits with one acknowledgement less than a majority")   \
    X(HUNG_DISK_LEADS, "LEAD7", "goes on leading while its own write hangs")                       \
    X(HUNG_DISK_CAMPAIGNS, "LEAD7", "campaigns while its own write hangs")                         \
    X(READ_WITHOUT_CONFIRMATION, "READ1", "answers reads without asking the others")               \
    X(READ_OLD_ROUND, "READ1", "a reply to an earlier round of heartbeats confirms a read")        \
    X(READ_ONE_MAJORITY, "READ1", "in a joint configuration confirms reads by C_new alone")        \
    X(READ_BEFORE_NOOP, "READ2", "answers reads before an entry of its term is committed")         \
    X(CONFIGURATION_NOT_UNDONE, "CONF1", "keeps a configuration whose entry was truncated")        \
    X(CONFIGURATION_WHEN_APPLIED, "CONF1", "uses a configuration only once it is committed")       \
    X(CHANGE_WITHOUT_JOINT, "CONF2", "changes the voters in one step")                             \
    X(ELECT_ONE_MAJORITY, "CONF2", "in a joint configuration is elected by C_new alone")           \
    X(COMMIT_ONE_MAJORITY, "CONF2", "in a joint configuration commits by C_new alone")             \
    X(CHANGE_BEFORE_COMMIT, "CONF3", "changes members before its term has a committed entry")      \
    X(CHANGE_WHILE_PENDING, "CONF3", "begins a change while another is unfinished")                \
    X(JOINT_LEFT_BY_ENTERER_ONLY, "CONF4", "a new leader doesn't leave a joint configuration")     \
    X(REMOVED_LEADER_STAYS, "CONF5", "leads on after a configuration without it is committed")     \
    X(REMOVED_LEADER_COUNTS, "CONF5", "counts itself where it is no voter")                        \
    X(LEARNER_COUNTS, "CONF6", "counts learners in the majority for commits")                      \
    X(LEARNER_CAMPAIGNS, "CONF7", "campaigns as a learner or removed server")                      \
    X(TRANSFER_WITHOUT_BYPASS, "TRANS1", "a transfer's election asks and waits as any other")      \
    X(PROPOSALS_DURING_TRANSFER, "TRANS2", "takes proposals during a transfer")                    \
    X(TRANSFER_NEVER_ENDS, "TRANS3", "never gives a transfer up")                                  \
    X(CHUNKS_NOT_NAMED, "SNAP2", "continues one snapshot with the chunks of another")              \
    X(INSTALL_OVER_COVERED, "SNAP3", "installs a snapshot that its log has already passed")        \
    X(SNAPSHOT_WITHOUT_CONFIGURATION, "SNAP4", "keeps its configuration at an installation")       \
    X(COMPACTS_UNDER_TRANSFER, "SNAP5", "lets entries go that a snapshot under way needs next")

enum raft_mutant {
    RAFT_MUTANT_NONE,
#define RAFT_MUTANT_ENUM(name, rule, what) RAFT_MUTANT_##name,
    RAFT_MUTANT_LIST(RAFT_MUTANT_ENUM)
#undef RAFT_MUTANT_ENUM
        RAFT_MUTANT_COUNT
};
