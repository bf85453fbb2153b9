#include "vmm/sched/sched_tree.h"

// A hash whose bits all depend on all bits of the number (the finaliser of MurmurHash3).
static uint32_t priority_of(uint32_t id)
{
    uint32_t h = id + 0x9e3779b9u;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    return h ^ h >> 16;
}

static bool comes_first(const struct sched_node *nodes, uint32_t a, uint32_t b)
{
    if (nodes[a].key != nodes[b].key)
        return sched_before(nodes[a].key, nodes[b].key);
    return a < b; // equal keys need an order that insertion and removal agree on
}

static void update(struct sched_node *nodes, uint32_t id)
{
    struct sched_node *n = &nodes[id];
    n->least = n->value;
    if (n->left != SCHED_NONE && sched_before(nodes[n->left].least, n->least))
        n->least = nodes[n->left].least;
    if (n->right != SCHED_NONE && sched_before(nodes[n->right].least, n->least))
        n->least = nodes[n->right].least;
}

// Splits a subtree into what comes before node `at` and what comes after it.
static void split(struct sched_node *nodes, uint32_t root, uint32_t at, uint32_t *left,
                  uint32_t *right)
{
    if (root == SCHED_NONE) {
        *left = *right = SCHED_NONE;
    } else if (comes_first(nodes, root, at)) {
        split(nodes, nodes[root].right, at, &nodes[root].right, right);
        *left = root;
        update(nodes, root);
    } else {
        split(nodes, nodes[root].left, at, left, &nodes[root].left);
        *right = root;
        update(nodes, root);
    }
}

static uint32_t merge(struct sched_node *nodes, uint32_t left, uint32_t right)
{
    if (left == SCHED_NONE)
        return right;
    if (right == SCHED_NONE)
        return left;
    if (nodes[left].priority >= nodes[right].priority) {
        nodes[left].right = merge(nodes, nodes[left].right, right);
        update(nodes, left);
        return left;
    }
    nodes[right].left = merge(nodes, left, nodes[right].left);
    update(nodes, right);
    return right;
}

static uint32_t insert_below(struct sched_node *nodes, uint32_t root, uint32_t id)
{
    if (root == SCHED_NONE || nodes[id].priority > nodes[root].priority) {
        split(nodes, root, id, &nodes[id].left, &nodes[id].right);
        update(nodes, id);
        return id;
    }
    if (comes_first(nodes, id, root))
        nodes[root].left = insert_below(nodes, nodes[root].left, id);
    else
        nodes[root].right = insert_below(nodes, nodes[root].right, id);
    update(nodes, root);
    return root;
}

static uint32_t remove_below(struct sched_node *nodes, uint32_t root, uint32_t id)
{
    if (root == id)
        return merge(nodes, nodes[id].left, nodes[id].right);
    if (root == SCHED_NONE) // not in this tree: nothing to take out
        return root;
    if (comes_first(nodes, id, root))
        nodes[root].left = remove_below(nodes, nodes[root].left, id);
    else
        nodes[root].right = remove_below(nodes, nodes[root].right, id);
    update(nodes, root);
    return root;
}

void sched_tree_insert(struct sched_node *nodes, uint32_t *root, uint32_t id, uint64_t key,
                       uint64_t value)
{
    nodes[id] = (struct sched_node){
        .key = key,
        .value = value,
        .left = SCHED_NONE,
        .right = SCHED_NONE,
        .priority = priority_of(id),
    };
    *root = insert_below(nodes, *root, id);
}

void sched_tree_remove(struct sched_node *nodes, uint32_t *root, uint32_t id)
{
    *root = remove_below(nodes, *root, id);
    nodes[id].left = nodes[id].right = SCHED_NONE;
}

uint32_t sched_tree_find(const struct sched_node *nodes, uint32_t root, uint64_t limit)
{
    if (root == SCHED_NONE || sched_before(limit, nodes[root].least))
        return SCHED_NONE;
    // Some node of the subtree fits; the left one comes first when it has one.
    for (;;) {
        uint32_t left = nodes[root].left;
        if (left != SCHED_NONE && !sched_before(limit, nodes[left].least))
            root = left;
        else if (!sched_before(limit, nodes[root].value))
            return root;
        else
            root = nodes[root].right;
    }
}

uint32_t sched_tree_least(const struct sched_node *nodes, uint32_t root)
{
    return root == SCHED_NONE ? SCHED_NONE : sched_tree_find(nodes, root, nodes[root].least);
}

bool sched_tree_walk(const struct sched_node *nodes, uint32_t root,
                     bool (*visit)(void *opaque, uint32_t id), void *opaque)
{
    return root == SCHED_NONE ||
           (sched_tree_walk(nodes, nodes[root].left, visit, opaque) && visit(opaque, root) &&
            sched_tree_walk(nodes, nodes[root].right, visit, opaque));
}
