// A balanced search tree over numbered nodes, for the scheduling policy: ordered by key, and each
// node knows the least value below it, so that "the first by key among those whose value is at most
// X" takes O(log n). Nodes are named by their index in one array and nothing points anywhere, so a
// tree may lie in memory that processes share at different addresses.
//
// A treap: priorities come from the node's number and a hash, so that a run replays exactly. Keys
// and values are virtual times that wrap: two are compared by the sign of their difference.
//
// The nodes may be nonsense (sched_policy.h): numbers are masked, and who meets more levels or
// nodes than a tree can have stops there and notes it. The tree may have lost nodes then.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHED_NONE UINT32_MAX

struct sched_node {
    uint64_t key;
    uint64_t value;
    uint64_t least; // of the values in this subtree
    uint32_t left, right;
    uint32_t priority;
};

static inline bool sched_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

// Nodes that lie `stride` bytes apart. `mask` is the highest number there may be, one less than a
// power of 2.
struct sched_nodes {
    char *first;
    uint32_t *damaged; // becomes 1 when something is wrong
    uint32_t stride, mask;
};

static inline struct sched_node *sched_node(struct sched_nodes nodes, uint32_t id)
{
    return (struct sched_node *)(void *)(nodes.first + (size_t)(id & nodes.mask) * nodes.stride);
}

// The node isn't in a tree; its key and value are set here.
void sched_tree_insert(struct sched_nodes nodes, uint32_t *root, uint32_t id, uint64_t key,
                       uint64_t value);
// The node is in this tree.
void sched_tree_remove(struct sched_nodes nodes, uint32_t *root, uint32_t id);
// The first by key whose value is not after `limit`; SCHED_NONE when there's none.
uint32_t sched_tree_find(struct sched_nodes nodes, uint32_t root, uint64_t limit);
// The one with the least value; SCHED_NONE in an empty tree.
uint32_t sched_tree_least(struct sched_nodes nodes, uint32_t root);
// The first by key, whatever its value.
uint32_t sched_tree_first(struct sched_nodes nodes, uint32_t root);
// In the order of keys, until visit() returns false. False when it did.
bool sched_tree_walk(struct sched_nodes nodes, uint32_t root,
                     bool (*visit)(void *opaque, uint32_t id), void *opaque);
