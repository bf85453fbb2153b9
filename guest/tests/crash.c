// crash: puts the machine into a state from which it can't go on, mode= by mode. Some machines end
// there, which is for the hypervisor to report; the modes that a guest survives say so.
#include "guest/lib/console.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/ports.h"
#include "guest/lib/privileged.h"
#include "guest/tests/test.h"

// An address that no device claims; gpa= for another one.
#define NOWHERE 0xd0000000ul
#define ROM     0xfffffff0ul

// Code in MMIO: the hypervisor would have to emulate bytes that it can't fetch.
static bool crash_jump(void)
{
    privileged_jump(option_number("gpa", NOWHERE));
    return false;
}

static bool crash_user_jump(void)
{
    ((void (*)(void))option_number("gpa", NOWHERE))();
    return false;
}

static bool crash_triple(void)
{
    privileged_triple_fault();
    return false;
}

static bool crash_halt(void)
{
    privileged_halt_for_good();
    return false;
}

static bool crash_state(void)
{
    privileged_bad_state();
    return false;
}

// A page table that maps nothing: not even the handler of the page fault can be fetched.
static bool crash_page_table(void)
{
    privileged_page_table((uint64_t)pages_allocate_zeroed(4096, 4096));
    return false;
}

// A page table where there's no memory. KVM may go round in circles, so that only its being killed
// ends the machine.
static bool crash_page_table_hole(void)
{
    privileged_page_table(option_number("gpa", NOWHERE));
    return false;
}

// An instruction on device memory that KVM's emulator lacks. In ring 0 that stops the machine.
static bool crash_emulation(void)
{
    privileged_vector_load(option_number("gpa", NOWHERE));
    console_line("crash mode=emulation survived");
    return true;
}

// At CPL 3 it becomes an exception in the guest.
static bool crash_user_emulation(void)
{
    __asm__ volatile("paddb (%0), %%xmm0" : : "r"(option_number("gpa", NOWHERE)) : "memory");
    console_line("crash mode=user-emulation survived");
    return true;
}

// A write to ROM must not change it, and must not hurt.
static bool crash_rom(void)
{
    volatile uint8_t *rom = (volatile uint8_t *)option_number("gpa", ROM);
    uint8_t before = *rom;
    *rom = (uint8_t)~before;
    console_line("crash mode=rom before=0x%x after=0x%x", before, *rom);
    return *rom == before;
}

// An exception that the guest itself reports, with result=fail.
static bool crash_exception(void)
{
    __asm__ volatile("ud2");
    return false;
}

enum { PANIC_PORT = 0x505, PANICKED = 1, CRASH_KERNEL = 2 };

// Says that the kernel panicked, count= times. What follows is the host's to decide; here it goes
// on.
static bool crash_panic(void)
{
    uint8_t known = port_read8(PANIC_PORT);
    for (uint64_t i = option_number("count", 1); i > 0; i--)
        port_write8(PANIC_PORT, PANICKED);
    console_line("crash mode=panic known=%u survived", known);
    return known == (PANICKED | CRASH_KERNEL);
}

// Says that a crash kernel is about to run: nobody should stop that.
static bool crash_kernel(void)
{
    port_write8(PANIC_PORT, CRASH_KERNEL);
    console_line("crash mode=crash-kernel survived");
    return true;
}

static const struct {
    const char *name;
    bool (*run)(void);
} modes[] = {
    {"triple", crash_triple},
    {"jump", crash_jump},
    {"user-jump", crash_user_jump},
    {"halt", crash_halt},
    {"state", crash_state},
    {"page-table", crash_page_table},
    {"page-table-hole", crash_page_table_hole},
    {"emulation", crash_emulation},
    {"user-emulation", crash_user_emulation},
    {"rom", crash_rom},
    {"exception", crash_exception},
    {"panic", crash_panic},
    {"crash-kernel", crash_kernel},
};

bool test_crash(void)
{
    const char *mode = option_string("mode", "triple");
    for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(mode, modes[i].name))
            continue;
        console_line("crash mode=%s now", mode);
        return modes[i].run();
    }
    console_line("crash mode=%s unknown", mode);
    return false;
}
