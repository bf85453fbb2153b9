#include "machine.h"

#include "base/bytes.h"

#include <string.h>

uint64_t sim_hash(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

uint64_t sim_hash_bytes(uint64_t hash, const uint8_t *bytes, size_t length)
{
    uint64_t tail = length;

    for (; length >= 8; bytes += 8, length -= 8)
        hash = sim_hash(hash, bytes_get_u64(bytes));
    for (; length > 0; bytes++, length--)
        tail = tail << 8 | *bytes;
    return sim_hash(hash, tail);
}

void sim_command_encode(const struct sim_command *command, uint8_t bytes[SIM_COMMAND_BYTES])
{
    bytes_put_u32(bytes, command->session);
    bytes_put_u32(bytes + 4, command->sequence);
    bytes_put_u32(bytes + 8, command->key);
    bytes_put_u32(bytes + 12, command->kind);
    bytes_put_u64(bytes + 16, command->argument);
    bytes_put_u64(bytes + 24, command->expected);
}

bool sim_command_decode(struct sim_command *command, const uint8_t *bytes, size_t length)
{
    if (length < SIM_COMMAND_BYTES)
        return false;
    *command = (struct sim_command){
        .session = bytes_get_u32(bytes),
        .sequence = bytes_get_u32(bytes + 4),
        .key = bytes_get_u32(bytes + 8),
        .kind = (enum sim_register_kind)bytes_get_u32(bytes + 12),
        .argument = bytes_get_u64(bytes + 16),
        .expected = bytes_get_u64(bytes + 24),
    };
    return command->session < SIM_SESSIONS && command->key < SIM_KEYS &&
           command->kind < SIM_REGISTER_KINDS;
}

void sim_machine_init(struct sim_machine *machine)
{
    memset(machine, 0, sizeof(*machine));
}

bool sim_machine_apply(struct sim_machine *machine, uint64_t index, uint64_t content,
                       const struct sim_command *command, bool once, uint64_t *result)
{
    struct sim_session *session;

    machine->applied = index;
    machine->chain = sim_hash(sim_hash(machine->chain, index), content);
    if (!command)
        return false;
    session = &machine->sessions[command->session];
    if (command->sequence < session->sequence)
        return false;
    if (command->sequence > session->sequence || !once) {
        session->sequence = command->sequence;
        session->result = sim_register_apply(&machine->values[command->key], command->kind,
                                             command->argument, command->expected);
    }
    *result = session->result;
    machine->chain = sim_hash(machine->chain, session->result);
    return true;
}

static uint8_t machine_padding(uint64_t chain, size_t at)
{
    return (uint8_t)(chain >> (at % 8 * 8)) ^ (uint8_t)at;
}

size_t sim_machine_encode(const struct sim_machine *machine, size_t pad, uint8_t *bytes)
{
    uint8_t *at = bytes;

    bytes_put_u64(at + 8, machine->applied);
    bytes_put_u64(at + 16, machine->chain);
    at += 24;
    for (int i = 0; i < SIM_KEYS; i++, at += 8)
        bytes_put_u64(at, machine->values[i]);
    for (int i = 0; i < SIM_SESSIONS; i++, at += 12) {
        bytes_put_u32(at, machine->sessions[i].sequence);
        bytes_put_u64(at + 4, machine->sessions[i].result);
    }
    for (size_t i = 0; i < pad; i++)
        *at++ = machine_padding(machine->chain, i);
    bytes_put_u64(bytes, sim_hash_bytes(0, bytes + 8, (size_t)(at - bytes) - 8));
    return (size_t)(at - bytes);
}

bool sim_machine_decode(struct sim_machine *machine, const uint8_t *bytes, size_t length)
{
    const uint8_t *at = bytes;

    sim_machine_init(machine);
    if (length < SIM_MACHINE_BYTES ||
        bytes_get_u64(bytes) != sim_hash_bytes(0, bytes + 8, length - 8))
        return false;
    machine->applied = bytes_get_u64(at + 8);
    machine->chain = bytes_get_u64(at + 16);
    at += 24;
    for (int i = 0; i < SIM_KEYS; i++, at += 8)
        machine->values[i] = bytes_get_u64(at);
    for (int i = 0; i < SIM_SESSIONS; i++, at += 12) {
        machine->sessions[i].sequence = bytes_get_u32(at);
        machine->sessions[i].result = bytes_get_u64(at + 4);
    }
    return true;
}
