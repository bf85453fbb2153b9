#include "devices/net/net_mac.h"

enum { LOCALLY_ADMINISTERED = 0x02, MULTICAST = 0x01 };

// FNV-1a, 64 bits: spreads names well, and its result never changes.
static uint64_t hash(const char *text, unsigned index)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    for (unsigned i = 0; i < 4; i++)
        h = (h ^ (index >> (8 * i) & 0xff)) * UINT64_C(0x100000001b3);
    return h;
}

void net_mac_derive(const char *machine, unsigned index, uint8_t mac[6])
{
    uint64_t h = hash(machine, index);
    h ^= h >> 48; // FNV mixes its low bits less
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)(h >> (8 * (5 - i)));
    mac[0] = (uint8_t)((mac[0] & ~MULTICAST) | LOCALLY_ADMINISTERED);
}
