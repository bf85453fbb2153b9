// reset: resets the machine, how=acpi, cf9, 8042 or triple (the first that works). With count=N it
// stops after N resets, which it counts in the battery-backed memory of the clock: the one memory
// that outlives a reset of every hypervisor.
#include "guest/lib/console.h"
#include "guest/lib/machine_end.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/ports.h"
#include "guest/tests/test.h"

enum {
    CMOS_INDEX = 0x70,
    CMOS_DATA = 0x71,
    CMOS_COUNT = 0x70, // bytes that neither clock nor firmware uses
    CMOS_CHECK = 0x71, // its complement when the count is valid
};

static uint8_t cmos_read(uint8_t index)
{
    port_write8(CMOS_INDEX, index);
    return port_read8(CMOS_DATA);
}

static void cmos_write(uint8_t index, uint8_t value)
{
    port_write8(CMOS_INDEX, index);
    port_write8(CMOS_DATA, value);
}

static void count_write(uint8_t count)
{
    cmos_write(CMOS_COUNT, count);
    cmos_write(CMOS_CHECK, (uint8_t)~count);
}

bool test_reset(void)
{
    uint8_t count = cmos_read(CMOS_COUNT);
    if ((cmos_read(CMOS_CHECK) ^ count) != 0xff)
        count = 0;
    uint64_t wanted = option_number("count", 0);
    console_line("reset number=%u", count);
    if (wanted && count >= wanted) {
        test_summary("resets=%u", count);
        cmos_write(CMOS_CHECK, count);
        return true;
    }
    count_write((uint8_t)(count + 1));
    if (cmos_read(CMOS_COUNT) != (uint8_t)(count + 1)) {
        console_line("reset error: the clock's memory doesn't keep the count");
        return false;
    }
    const char *how = option_string("how", "any");
    machine_reset(!strcmp(how, "any") ? NULL : how);
}
