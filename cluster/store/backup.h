// A backup of the store in a file: "FERRYBAK", u32 version (1), the snapshot (docs/store.md), u64
// its length, u32 CRC-32C of all before. Little-endian.
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum { BACKUP_VERSION = 1, BACKUP_HEAD = 12, BACKUP_TAIL = 12 };

struct backup_writer {
    FILE *file;
    uint64_t length;
    uint32_t crc;
    int error; // of the file: -errno
};
// Each: 0 or -errno.
int backup_begin(struct backup_writer *w, FILE *file);
int backup_piece(void *writer, const void *bytes, size_t length);
int backup_end(struct backup_writer *w);

// The whole file into fresh memory, checked; the snapshot in it. NULL with a sentence.
uint8_t *backup_read(const char *path, const uint8_t **snapshot, size_t *length, struct error *err);
