#include "guest/lib/withheld.h"

#include "guest/lib/cpu.h"
#include "guest/lib/pages.h"

enum { PAGE_ADDRESS = 0xfe000000u, PAGE_SIZE = 0x2000, PAGE_VERSION = 1 };

struct withheld_head {
    char magic[8];
    uint32_t version, vcpus;
};

struct withheld_record {
    uint32_t sequence, padding; // odd while the host writes
    uint64_t withheld_ns;
    uint8_t rest[48];
};
_Static_assert(sizeof(struct withheld_record) == 64, "the page's layout");

static bool present;

bool withheld_start(void)
{
    static const char magic[8] = "FERRYCPU";
    const volatile struct withheld_head *head = (void *)(uint64_t)PAGE_ADDRESS;
    pages_map_device(PAGE_ADDRESS, PAGE_SIZE);
    present = head->version == PAGE_VERSION;
    for (unsigned i = 0; i < sizeof(magic); i++)
        present = present && head->magic[i] == magic[i];
    return present;
}

uint64_t withheld_ns(void)
{
    const volatile struct withheld_record *record =
        (void *)((uint64_t)PAGE_ADDRESS + 64 + this_cpu()->apic_id * sizeof(*record));
    uint32_t sequence;
    uint64_t ns;
    if (!present)
        return 0;
    do {
        sequence = record->sequence & ~1u;
        __asm__ volatile("" : : : "memory");
        ns = record->withheld_ns;
        __asm__ volatile("" : : : "memory");
    } while (sequence != record->sequence);
    return ns;
}
