// The replicated state machine of the simulation: SIM_KEYS registers and the sessions of the
// clients, which make a retried command take effect once. A chain of hashes over all that was
// applied stands for its whole history.
#pragma once

#include "register.h"

#include <stddef.h>

#define SIM_SESSIONS          64
#define SIM_COMMAND_BYTES     32
#define SIM_MACHINE_BYTES     (24 + SIM_KEYS * 8 + SIM_SESSIONS * 12)
#define SIM_MACHINE_PAD_MAX   (64u << 10)
#define SIM_MACHINE_BYTES_MAX (SIM_MACHINE_BYTES + SIM_MACHINE_PAD_MAX)

struct sim_command {
    uint32_t session, sequence;
    uint32_t key;
    enum sim_register_kind kind;
    uint64_t argument, expected;
};

struct sim_session {
    uint32_t sequence;
    uint64_t result;
};

struct sim_machine {
    uint64_t applied; // index of the last entry applied
    uint64_t chain;   // hash of everything applied and of its results, in order
    uint64_t values[SIM_KEYS];
    struct sim_session sessions[SIM_SESSIONS];
};

void sim_command_encode(const struct sim_command *command, uint8_t bytes[SIM_COMMAND_BYTES]);
// False for bytes that are no command; `length` may be more than SIM_COMMAND_BYTES (padding).
bool sim_command_decode(struct sim_command *command, const uint8_t *bytes, size_t length);

uint64_t sim_hash(uint64_t hash, uint64_t value);
uint64_t sim_hash_bytes(uint64_t hash, const uint8_t *bytes, size_t length);

void sim_machine_init(struct sim_machine *machine);

// Applies the entry at `index`, which must be applied + 1. `content` is the hash of its term, type
// and bytes. For a command (else NULL) gives its result and returns true; false if the session has
// gone on to later commands.
// Without `once`, a command that came before takes effect again (a deliberate mistake).
bool sim_machine_apply(struct sim_machine *machine, uint64_t index, uint64_t content,
                       const struct sim_command *command, bool once, uint64_t *result);

// Writes SIM_MACHINE_BYTES + pad bytes; the padding is a function of the chain, so that damage
// shows.
size_t sim_machine_encode(const struct sim_machine *machine, size_t pad, uint8_t *bytes);
bool sim_machine_decode(struct sim_machine *machine, const uint8_t *bytes, size_t length);
