// Memory that lives as long as one ready.
#include "cluster/raft/raft_internal.h"

#define ARENA_BLOCK_BYTES (16 * 1024)
#define ARENA_ALIGN       16

void *raft_arena_take(struct raft_arena *arena, size_t size)
{
    struct raft_arena_block *block = arena->blocks;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (!block || block->size - block->used < size) {
        size_t room = size > ARENA_BLOCK_BYTES ? size : ARENA_BLOCK_BYTES;
        size_t header = (sizeof(*block) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);

        block = raft_allocate(arena->allocator, NULL, header + room);
        if (!block)
            return NULL;
        *block =
            (struct raft_arena_block){.next = arena->blocks, .size = header + room, .used = header};
        arena->blocks = block;
    }
    void *memory = (uint8_t *)block + block->used;
    block->used += size;
    return memory;
}

void raft_arena_reset(struct raft_arena *arena)
{
    struct raft_arena_block *kept = NULL;
    size_t header = (sizeof(*kept) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);

    while (arena->blocks) {
        struct raft_arena_block *block = arena->blocks;

        arena->blocks = block->next;
        if (!kept && block->size == header + ARENA_BLOCK_BYTES)
            kept = block;
        else
            raft_allocate(arena->allocator, block, 0);
    }
    if (kept) {
        kept->next = NULL;
        kept->used = header;
    }
    arena->blocks = kept;
}

void raft_arena_free(struct raft_arena *arena)
{
    while (arena->blocks) {
        struct raft_arena_block *block = arena->blocks;

        arena->blocks = block->next;
        raft_allocate(arena->allocator, block, 0);
    }
}
