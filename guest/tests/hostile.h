// What the files of test=hostile share: a guest that does to its devices whatever a driver must
// not.
//
// The devices write into the guest's memory where its rings say, so a test that lets them write
// anywhere only kills itself. What keeps it alive, whichever way its writes and reads mix:
//
//   arena, the end of the RAM below 4 GiB:   | tables | buffers ....... | hole below 4 GiB
//
// - Descriptor tables, direct and indirect, lie in the tables alone, and no device ever writes
//   there: each descriptor is one that the test made.
// - A buffer lies in the arena or where there is no RAM. It may be of any length: it then reaches
//   the end of RAM, and the device must refuse it.
// - Registers with addresses get values of those same kinds; an interrupt's message gets a vector
//   that the stub just counts.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/drivers/virtio.h"

enum {
    HOSTILE_QUEUES = 8, // of a device, that are attacked
    HOSTILE_BARS = 6,
};

struct hostile_victim {
    struct virtio_device device; // where its structures are
    enum virtio_type type;
    unsigned index; // among those of its type
    uint16_t command;
    uint32_t bars[HOSTILE_BARS];
    uint16_t queue_count;
};

struct hostile_counts {
    uint64_t accesses, kicks, chains;
};

// ---- hostile_memory.c ----

bool hostile_memory_start(void);
// An address for a descriptor table, for a ring that the device reads, for one that it writes.
uint64_t hostile_table_address(uint64_t *random);
uint64_t hostile_available_address(uint64_t *random);
uint64_t hostile_used_address(uint64_t *random);
// Writes one descriptor somewhere into the tables, or into the table at `table`.
void hostile_descriptor_write(const struct hostile_victim *victim, uint64_t table,
                              uint64_t *random);
// Writes a chain of the form of a request into the table, and returns its head. A queue's requests
// are read from its device, or written to it, or both.
enum hostile_form { HOSTILE_WRITTEN, HOSTILE_READ, HOSTILE_BOTH, HOSTILE_FORMS };
uint16_t hostile_chain_write(const struct hostile_victim *victim, uint64_t table,
                             enum hostile_form form, uint64_t *random);
// Writes what a request's header may look like, and other words, into the buffers.
void hostile_buffers_write(const struct hostile_victim *victim, uint64_t *random);
// No device is attacked: the tables are as at the start.
void hostile_forget_descriptors(void);
// Fills the buffers with a mark; counts the bytes that no longer have it.
void hostile_mark(void);
uint64_t hostile_marks_lost(void);

// ---- hostile_registers.c ----

// One access to the device: its registers, its PCI configuration, its MSI-X table. A mild one is
// hardly ever one that ends the device's work.
void hostile_access(struct hostile_victim *victim, bool mild, uint64_t *random);
// Resets the device, agrees on features as a driver would (or not quite), programs the queues (when
// mild, with rings that can work) and starts.
void hostile_program(struct hostile_victim *victim, bool mild, uint64_t *random);
// Rings a doorbell, that of a queue or one that isn't there.
void hostile_kick(const struct hostile_victim *victim, uint64_t *random);
// Offers something to a queue: when mild, chains that look like requests; else any mix of
// descriptors and indexes.
void hostile_ring_write(const struct hostile_victim *victim, bool mild, uint64_t *random);
// BARs, command and MSI-X as they were, and the device reset.
bool hostile_restore(struct hostile_victim *victim);

// ---- hostile_check.c ----

// The device does its work for a driver that is none of this; prints what doesn't.
bool hostile_check(const struct hostile_victim *victim);
