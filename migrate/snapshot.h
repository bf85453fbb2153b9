// Snapshots: a machine's state and RAM in one file, and the way back (docs/state-format.md).
//
//   0      header: magic, version, where the metadata is, its length and checksum; written last
//   4096   metadata: description, image offsets, RAM table, disks, running, machine state
//   ...    images (page-aligned), then RAM, each region at a multiple of 2 MiB, with holes for zero
//   pages
//
// A snapshot is taken while the machine stands; a failure leaves it as it was, and the file without
// a header, which nobody takes for a snapshot. RAM is restored by mapping the file copy-on-write,
// so the machine runs at once; the file must stay as it is for as long as that machine lives,
// unless it was loaded whole.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "migrate/description.h"
#include "vmm/machine.h"

struct snapshot_writer;

struct snapshot_listener {
    // The machine goes on again; `err` has the sentence of a failure. On main.
    void (*done)(void *opaque, int result, uint64_t bytes, const struct error *err);
    void *opaque;
};

// Takes a snapshot into `fd` (empty, opened for writing; stays the caller's). 0 or a sentence.
int snapshot_start(struct snapshot_writer **writer, struct machine *machine, uv_loop_t *loop,
                   int fd, const struct snapshot_listener *listener, struct error *err);
// After done; before it waits for the end. NULL is allowed.
void snapshot_writer_free(struct snapshot_writer *writer);

struct snapshot_file;

// Reads and checks a snapshot's metadata. `path` is for messages. From a hostile source: 0 or a
// sentence.
int snapshot_open(struct snapshot_file **file, const char *path, struct error *err);
struct machine_config *snapshot_config(struct snapshot_file *file);
const struct cpuid_table *snapshot_cpuid(const struct snapshot_file *file);
// Fills in the images of `files` (they are then the machine's).
int snapshot_give_images(struct snapshot_file *file, struct machine_files *files,
                         struct error *err);
// Whether the machine's disks are still as they were: -ESTALE with a sentence that names the one
// that isn't.
int snapshot_check_disks(const struct snapshot_file *file, const struct machine_files *files,
                         struct error *err);
// RAM and state into a machine of machine_create_incoming(): by mapping, or `whole`.
int snapshot_load(struct snapshot_file *file, struct machine *machine, bool whole,
                  struct error *err);
// Whether it ran when the snapshot was taken.
bool snapshot_was_running(const struct snapshot_file *file);
// Moves the file's descriptor to this number.
void snapshot_move_fd(struct snapshot_file *file, int fd);
void snapshot_close(struct snapshot_file *file);
