// The end of the machine, by the way that `exit=` names.
#pragma once

#include <stdint.h>

// Ends the machine with a status (0: pass). By `exit=debug` (port 0xf4), `s5` (ACPI power-off),
// `reset`, `none` (halts), or, when nothing was said, the first of debug and s5 that works, else it
// halts.
void machine_end(uint32_t status) __attribute__((noreturn));

// The same for an exception's report: debug-exit or a halt with interrupts off, nothing that needs
// the gate.
void machine_end_from_ring0(uint32_t status) __attribute__((noreturn));

// Resets the machine by the FADT's reset register, 0xcf9 or a triple fault; `how` is "acpi", "cf9",
// "8042" or "triple", or NULL for the first that works.
void machine_reset(const char *how) __attribute__((noreturn));
