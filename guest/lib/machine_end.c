#include "guest/lib/machine_end.h"

#include "guest/drivers/acpi.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/ports.h"
#include "guest/lib/privileged.h"
#include "guest/lib/time.h"

enum { DEBUG_EXIT = 0xf4 };

static void halt(void) __attribute__((noreturn));
static void halt(void)
{
    for (;;)
        cpu_sleep(this_cpu()->irq_total);
}

void machine_end(uint32_t status)
{
    const char *how = option_string("exit", "auto");
    bool any = !strcmp(how, "auto");
    if (any || !strcmp(how, "debug"))
        port_write32(DEBUG_EXIT, status);
    if (any || !strcmp(how, "s5"))
        acpi_power_off();
    if (!strcmp(how, "reset"))
        machine_reset(NULL);
    halt();
}

void machine_end_from_ring0(uint32_t status)
{
    port_write32(DEBUG_EXIT, status);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void machine_reset(const char *how)
{
    if (!how || !strcmp(how, "acpi"))
        acpi_reset();
    if (!how || !strcmp(how, "cf9")) {
        port_write8(0xcf9, 0x02);
        port_write8(0xcf9, 0x06);
    }
    if (!how || !strcmp(how, "8042"))
        port_write8(0x64, 0xfe);
    // A reset may take its time; what follows is for the case that nobody listened.
    time_delay_ns(100000000);
    if (!how || !strcmp(how, "triple"))
        privileged_triple_fault();
    console_line("reset how=%s result=fail", how ? how : "any");
    halt();
}
