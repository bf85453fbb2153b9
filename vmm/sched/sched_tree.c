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

// A treap of 16,384 nodes has some 40 levels; twice as many have never been seen.
enum { MOST_LEVELS = 128 };

static void is_damaged(struct sched_nodes nodes)
{
    __atomic_store_n(nodes.damaged, 1, __ATOMIC_RELAXED);
}

static bool comes_first(struct sched_nodes nodes, uint32_t a, uint32_t b)
{
    uint64_t key_a = sched_node(nodes, a)->key, key_b = sched_node(nodes, b)->key;
    if (key_a != key_b)
        return sched_before(key_a, key_b);
    return a < b; // equal keys need an order that insertion and removal agree on
}

static void update(struct sched_nodes nodes, uint32_t id)
{
    struct sched_node *n = sched_node(nodes, id);
    uint64_t least = n->value;
    if (n->left != SCHED_NONE && sched_before(sched_node(nodes, n->left)->least, least))
        least = sched_node(nodes, n->left)->least;
    if (n->right != SCHED_NONE && sched_before(sched_node(nodes, n->right)->least, least))
        least = sched_node(nodes, n->right)->least;
    n->least = least;
}

// Splits a subtree into what comes before node `at` and what comes after it.
static void split(struct sched_nodes nodes, uint32_t root, uint32_t at, uint32_t *left,
                  uint32_t *right, unsigned levels)
{
    if (root != SCHED_NONE && !levels)
        is_damaged(nodes);
    if (root == SCHED_NONE || !levels) {
        *left = *right = SCHED_NONE;
    } else if (comes_first(nodes, root, at)) {
        struct sched_node *n = sched_node(nodes, root);
        split(nodes, n->right, at, &n->right, right, levels - 1);
        *left = root;
        update(nodes, root);
    } else {
        struct sched_node *n = sched_node(nodes, root);
        split(nodes, n->left, at, left, &n->left, levels - 1);
        *right = root;
        update(nodes, root);
    }
}

// Each step goes down one level of one of the two.
static uint32_t merge(struct sched_nodes nodes, uint32_t left, uint32_t right, unsigned levels)
{
    if (left == SCHED_NONE)
        return right;
    if (right == SCHED_NONE)
        return left;
    if (!levels) {
        is_damaged(nodes);
        return left;
    }
    struct sched_node *l = sched_node(nodes, left), *r = sched_node(nodes, right);
    if (l->priority >= r->priority) {
        l->right = merge(nodes, l->right, right, levels - 1);
        update(nodes, left);
        return left;
    }
    r->left = merge(nodes, left, r->left, levels - 1);
    update(nodes, right);
    return right;
}

static uint32_t insert_below(struct sched_nodes nodes, uint32_t root, uint32_t id, unsigned levels)
{
    struct sched_node *n = sched_node(nodes, id);
    if (root == SCHED_NONE || !levels || n->priority > sched_node(nodes, root)->priority) {
        split(nodes, root, id, &n->left, &n->right, levels);
        update(nodes, id);
        return id;
    }
    struct sched_node *above = sched_node(nodes, root);
    if (comes_first(nodes, id, root))
        above->left = insert_below(nodes, above->left, id, levels - 1);
    else
        above->right = insert_below(nodes, above->right, id, levels - 1);
    update(nodes, root);
    return root;
}

static uint32_t remove_below(struct sched_nodes nodes, uint32_t root, uint32_t id, unsigned levels)
{
    struct sched_node *n = sched_node(nodes, root);
    if (root == id)
        return merge(nodes, n->left, n->right, 2 * MOST_LEVELS);
    if (root == SCHED_NONE || !levels) { // not in this tree: nothing to take out
        is_damaged(nodes);
        return root;
    }
    if (comes_first(nodes, id, root))
        n->left = remove_below(nodes, n->left, id, levels - 1);
    else
        n->right = remove_below(nodes, n->right, id, levels - 1);
    update(nodes, root);
    return root;
}

void sched_tree_insert(struct sched_nodes nodes, uint32_t *root, uint32_t id, uint64_t key,
                       uint64_t value)
{
    *sched_node(nodes, id) = (struct sched_node){
        .key = key,
        .value = value,
        .left = SCHED_NONE,
        .right = SCHED_NONE,
        .priority = priority_of(id),
    };
    *root = insert_below(nodes, *root, id, MOST_LEVELS);
}

void sched_tree_remove(struct sched_nodes nodes, uint32_t *root, uint32_t id)
{
    *root = remove_below(nodes, *root, id, MOST_LEVELS);
    sched_node(nodes, id)->left = sched_node(nodes, id)->right = SCHED_NONE;
}

uint32_t sched_tree_find(struct sched_nodes nodes, uint32_t root, uint64_t limit)
{
    if (root == SCHED_NONE || sched_before(limit, sched_node(nodes, root)->least))
        return SCHED_NONE;
    // Some node of the subtree fits; the left one comes first when it has one.
    for (unsigned levels = MOST_LEVELS; levels && root != SCHED_NONE; levels--) {
        const struct sched_node *n = sched_node(nodes, root);
        uint32_t left = n->left;
        if (left != SCHED_NONE && !sched_before(limit, sched_node(nodes, left)->least))
            root = left;
        else if (!sched_before(limit, n->value))
            return root & nodes.mask;
        else
            root = n->right;
    }
    is_damaged(nodes);
    return SCHED_NONE;
}

uint32_t sched_tree_least(struct sched_nodes nodes, uint32_t root)
{
    return root == SCHED_NONE ? SCHED_NONE
                              : sched_tree_find(nodes, root, sched_node(nodes, root)->least);
}

uint32_t sched_tree_first(struct sched_nodes nodes, uint32_t root)
{
    uint32_t id = root;
    for (unsigned levels = MOST_LEVELS; levels && root != SCHED_NONE; levels--) {
        id = root & nodes.mask;
        root = sched_node(nodes, id)->left;
    }
    if (root != SCHED_NONE)
        is_damaged(nodes);
    return id;
}

struct walk {
    bool (*visit)(void *opaque, uint32_t id);
    void *opaque;
    uint32_t left; // nodes that there may be still
};

static bool walk_below(struct sched_nodes nodes, uint32_t root, struct walk *w, unsigned levels)
{
    if (root == SCHED_NONE)
        return true;
    if (!levels || !w->left) {
        is_damaged(nodes);
        return false;
    }
    w->left--;
    root &= nodes.mask;
    const struct sched_node *n = sched_node(nodes, root);
    return walk_below(nodes, n->left, w, levels - 1) && w->visit(w->opaque, root) &&
           walk_below(nodes, n->right, w, levels - 1);
}

bool sched_tree_walk(struct sched_nodes nodes, uint32_t root,
                     bool (*visit)(void *opaque, uint32_t id), void *opaque)
{
    struct walk w = {.visit = visit, .opaque = opaque, .left = nodes.mask + 1};
    return walk_below(nodes, root, &w, MOST_LEVELS);
}
