// Persistent MAC addresses.
#pragma once

#include <stdint.h>

// A locally administered unicast address that depends only on the machine's name and the index of
// its card.
void net_mac_derive(const char *machine, unsigned index, uint8_t mac[6]);
