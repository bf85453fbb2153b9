// The messages of a migration (docs/migration.md has the picture and who may send what when).
//
// Connections: one for control, one to sixteen for data, all opened by the source; each begins with
// HELLO.
//
//   source                              target
//   HELLO (control)             ->
//                               <-      WELCOME or REFUSE
//   DESCRIBE, IMAGE...          ->
//                               <-      READY or REFUSE         the machine is built, nothing runs
//   HELLO (data) each           ->                              no answer
//   data: PAGES, ZERO, ROUND n  ->                              in the first round COMING as well
//                               <-      ROUND_DONE n            all data connections passed round n
//   ... machine frozen ...
//   data: last round            ->
//   STATE                       ->
//                               <-      LOADED or REFUSE
//   ... disks flushed and unlocked, arbiter asked ...
//   COMMIT                      ->                              from its first byte it counts as
//   sent
//                               <-      STARTED or NOT_STARTED
//
// Before COMMIT either side may send ABORT or REFUSE with a reason, or just go. After a lost
// connection the source asks with HELLO (query) of the same id: the answer is STARTED or
// NOT_STARTED, and final.
#pragma once

#include <stdint.h>

#include "base/bytes.h"

#define MIGRATE_MAGIC UINT64_C(0x4d59525245460a0d)

enum {
    MIGRATE_VERSION_MAJOR = 1, // another major is refused
    MIGRATE_VERSION_MINOR = 1, // a newer minor only adds what an older side may do without
    MIGRATE_MINOR_COMING = 1,  // of a target that knows COMING
    MIGRATE_ID_SIZE = 16,
    MIGRATE_STREAMS_LIMIT = 16,
    MIGRATE_TEXT_LIMIT = 600, // a sentence of struct error
    MIGRATE_TOKEN_SIZE = 65,  // with the terminating zero
    MIGRATE_DESCRIPTION_LIMIT = 1 << 20,
    MIGRATE_STATE_LIMIT = 64 << 20,
    MIGRATE_IMAGE_CHUNK = 1 << 20,
    MIGRATE_RUN_LIMIT = 256,    // pages in one PAGES frame
    MIGRATE_COMING_LIMIT = 512, // pages in one COMING frame
};

enum migrate_frame {
    MIGRATE_HELLO = 1,
    MIGRATE_WELCOME = 2,
    MIGRATE_REFUSE = 3,   // string reason
    MIGRATE_DESCRIBE = 4, // JSON
    MIGRATE_READY = 5,
    MIGRATE_IMAGE = 6,       // u8 which, u64 offset, bytes
    MIGRATE_PAGES = 7,       // u64 gpa, then the pages' bytes
    MIGRATE_ZERO = 8,        // u64 gpa, u64 pages
    MIGRATE_ROUND = 9,       // u32 number
    MIGRATE_ROUND_DONE = 10, // u32 number
    MIGRATE_STATE = 11,      // u32 last round, u8 running, machine state
    MIGRATE_LOADED = 12,
    MIGRATE_COMMIT = 13,
    MIGRATE_STARTED = 14,
    MIGRATE_NOT_STARTED = 15, // string reason
    MIGRATE_ABORT = 16,       // string reason
    MIGRATE_COMING = 17,      // u64 gpa, u64 pages: most of these come soon on this connection
};

enum migrate_role { MIGRATE_ROLE_CONTROL = 0, MIGRATE_ROLE_DATA = 1, MIGRATE_ROLE_QUERY = 2 };

struct migrate_hello {
    uint16_t major, minor;
    uint8_t role; // enum migrate_role
    uint8_t id[MIGRATE_ID_SIZE];
    uint16_t index;                 // of a data connection
    char token[MIGRATE_TOKEN_SIZE]; // "" for none
};

void migrate_hello_encode(const struct migrate_hello *hello, struct byte_writer *w);
// False for anything but a whole HELLO of a known role; the version is the caller's to judge.
bool migrate_hello_decode(struct migrate_hello *hello, const void *data, size_t length);
const char *migrate_frame_name(uint32_t type);
