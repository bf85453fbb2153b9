// hotplug: follows the hot-plug registers as an ACPI kernel's methods do. rounds= times (1): waits
// for a disk to be put in, writes and reads it, says when its size changes, and gives it up when
// asked to (late=N: only when asked N times more).
#include "guest/drivers/pci.h"
#include "guest/drivers/virtio_blk.h"
#include "guest/drivers/virtio_common.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/ports.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    INSERTED = 0x640, // what devices/pci_hotplug.h says, and the DSDT
    REMOVAL = 0x644,
    PRESENT = 0x648,
    EVENT_STATUS = 0x620, // the first byte of GPE0
    EVENT = 1 << 1,
    STATUS_DRIVER_OK = 4,
};

// Waits for a slot in the register and clears it there, after the event that tells of it.
static unsigned slot_await(uint16_t port)
{
    while (!(port_read8(EVENT_STATUS) & EVENT))
        time_sleep_ns(2000000);
    port_write8(EVENT_STATUS, EVENT);
    uint32_t slots = port_read32(port);
    if (!slots)
        return 0;
    port_write32(port, slots);
    return (unsigned)__builtin_ctz(slots);
}

static bool disk_use(struct blk *blk, struct virtqueue *queue, uint8_t *page)
{
    static struct blk_request request;
    uint8_t *back = page + 512;
    for (unsigned i = 0; i < 512; i++)
        page[i] = (uint8_t)(i * 7 + 3);
    return blk_do(queue, &request, BLK_WRITE, blk->sectors - 1, page, 512) == BLK_OK &&
           blk_do(queue, &request, BLK_READ, blk->sectors - 1, back, 512) == BLK_OK &&
           !memcmp(page, back, 512);
}

// Until the guest is asked to give the disk up, `late` times over.
static void removal_await(struct blk *blk, unsigned late)
{
    uint64_t sectors = blk->sectors, now;
    for (unsigned asked = 0; asked <= late;) {
        virtio_config_read(&blk->device, 0, &now, sizeof(now));
        if (now != sectors)
            console_line("hotplug sectors=%lu", now);
        sectors = now;
        if (port_read8(EVENT_STATUS) & EVENT && slot_await(REMOVAL))
            console_line("hotplug asked=%u", ++asked);
        time_sleep_ns(2000000);
    }
}

static bool slot_eject(unsigned slot)
{
    port_write32(PRESENT, 1u << slot);
    // Nothing of it is left at the next instruction.
    port_write32(0xcf8, 0x80000000u | slot << 11);
    uint32_t id = port_read32(0xcfc), present = port_read32(PRESENT);
    console_line("hotplug ejected slot=%u id=0x%x present=0x%x", slot, id, present);
    return id == 0xffffffff && !(present >> slot & 1);
}

bool test_hotplug(void)
{
    uint64_t rounds = option_number("rounds", 1), late = option_number("late", 0);
    cpu_start_all();
    uint8_t *page = pages_allocate(4096, 4096);
    console_line("hotplug ready present=0x%x", port_read32(PRESENT));
    for (uint64_t i = 0; i < rounds; i++) {
        static struct blk blk;
        static struct virtqueue queue;
        unsigned slot = slot_await(INSERTED);
        if (!slot || !(port_read32(PRESENT) >> slot & 1) || !blk_open(&blk, 0) ||
            !virtqueue_open(&queue, &blk.device, 0, 0))
            return false;
        virtio_ready(&blk.device);
        if (!disk_use(&blk, &queue, page))
            return false;
        console_line("hotplug inserted slot=%u sectors=%lu", slot, blk.sectors);
        removal_await(&blk, (unsigned)late);
        if (!slot_eject(slot))
            return false;
    }
    test_summary("rounds=%lu", rounds);
    return true;
}
