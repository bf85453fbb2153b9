// Printing of JSON: whole, a line, or as text.
#pragma once

#include <jansson.h>
#include <stdint.h>

// An object over several lines, or on one.
void output_json(const json_t *value);
void output_json_line(const json_t *value);
// "vcpus[0].exits.io  17": one line a value.
void output_flat(const json_t *value);
// Members of an answer, for printing: "" and 0 when they aren't there.
const char *output_text_of(const json_t *object, const char *key);
uint64_t output_number_of(const json_t *object, const char *key);
// A machine that a command was asked for: its name alone, or an object with its state.
void output_name(const char *name, const char *state, int format);
// That a machine has ended: "NAME: how", or an object with both.
void output_ended(const char *name, const char *how, int format);
