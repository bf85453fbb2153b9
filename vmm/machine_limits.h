// Limits of disks and networks as people and descriptions write them.
//
//   --disk FILE,bps=20M,iops=500,burst=1s      {"bytes_per_second": 20971520, ...}
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "devices/rate_limiter.h"

#define MACHINE_LIMITS_KEYS "bps=, iops=, burst="

// One `key=value` of an option, of which `length` characters count. 1 when it was a limit, 0 when
// it is no key of one, or a sentence.
int machine_limits_set_option(struct rate_limits *limits, const char *option, size_t length,
                              struct error *err);
// The same into an object that machine_limits_from_json() reads. 0 or a sentence.
int machine_limits_add_option(json_t *object, const char *option, struct error *err);
// Overlays what the object has. 0 or a sentence.
int machine_limits_from_json(struct rate_limits *limits, const json_t *object, struct error *err);
bool machine_limits_are_none(const struct rate_limits *limits);
// A new object; NULL without memory.
json_t *machine_limits_to_json(const struct rate_limits *limits);
