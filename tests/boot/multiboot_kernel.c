// A kernel of a few hundred lines that boots by multiboot 1: it prints what the loader told it,
// checks the machine's platform devices from inside, and ends by the debug-exit port (value 0x10
// when all is well, else 0x20), by ACPI S5 (`end=poweroff` on the command line) or by the reset
// register (`end=reset`).
//
// 32-bit, no C library, no interrupts, no paging: it only needs what the protocol promises.
#include <stdbool.h>
#include <stdint.h>

enum {
    SERIAL = 0x3f8,
    PM = 0x600,
    CMOS = 0x70,
    EXIT = 0xf4,
    LATCH = 0xe0,
    MMIO = (int)0xff000000,
};

void kernel_main(uint32_t magic, const uint32_t *info);

static bool failed;

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}
static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print_char(char c)
{
    while (!(in8(SERIAL + 5) & 0x20))
        ;
    out8(SERIAL, (uint8_t)c);
}

static void print(const char *text)
{
    for (; *text; text++)
        print_char(*text);
}

static void print_hex(uint32_t high, uint32_t low)
{
    bool started = false;
    print("0x");
    for (int digit = 15; digit >= 0; digit--) {
        uint32_t value = (digit >= 8 ? high >> (4 * (digit - 8)) : low >> (4 * digit)) & 15;
        if (value || started || digit == 0) {
            print_char("0123456789abcdef"[value]);
            started = true;
        }
    }
}

static void check(bool good, const char *what)
{
    print(good ? "multiboot: pass " : "multiboot: FAIL ");
    print(what);
    print("\n");
    failed |= !good;
}

static bool has_word(const char *text, const char *word)
{
    while (*text) {
        const char *t = text, *w = word;
        while (*w && *t == *w)
            t++, w++;
        if (!*w && (*t == 0 || *t == ' '))
            return true;
        while (*text && *text != ' ')
            text++;
        while (*text == ' ')
            text++;
    }
    return false;
}

static void print_info(const uint32_t *info)
{
    print("multiboot: command_line=\"");
    print((const char *)info[4]);
    print("\"\nmultiboot: loader=\"");
    print((const char *)info[16]);
    print("\"\n");
    if (info[0] & 8 && info[5] == 1) {
        const uint32_t *module = (const uint32_t *)info[6];
        print("multiboot: module=\"");
        for (const char *c = (const char *)module[0]; c < (const char *)module[1]; c++)
            print_char(*c);
        print("\"\n");
        check(module[0] % 4096 == 0, "the module is page-aligned");
    }
    for (uint32_t at = info[12]; at < info[12] + info[11]; at += *(const uint32_t *)at + 4) {
        const uint32_t *entry = (const uint32_t *)at;
        print("multiboot: memory start=");
        print_hex(entry[2], entry[1]);
        print(" size=");
        print_hex(entry[4], entry[3]);
        print(" type=");
        print_hex(0, entry[5]);
        print("\n");
    }
}

static char zeroed[4096];

static void check_state(uint32_t magic, const uint32_t *info)
{
    uint32_t cr0, flags, sum = 0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    for (unsigned i = 0; i < sizeof(zeroed); i++)
        sum |= (uint8_t)((volatile char *)zeroed)[i];
    check(magic == 0x2badb002, "the magic");
    check((cr0 & 0x80000001) == 1, "protected mode without paging");
    check(!(flags & 0x200), "interrupts are off");
    check(sum == 0, "bss is zero");
    check((info[0] & 0x245) == 0x245, "memory, command line, map and loader's name are there");
    check(info[1] == 639, "low memory ends at 639 KiB");
}

static void check_test_devices(void)
{
    volatile uint8_t *mmio8 = (volatile uint8_t *)MMIO;
    volatile uint32_t *mmio32 = (volatile uint32_t *)MMIO;
    out32(LATCH, 0x44332211);
    out8(LATCH + 1, 0xaa);
    check(in32(LATCH) == 0x4433aa11 && in16(LATCH + 2) == 0x4433, "the latch");
    mmio32[0x3ffc] = 0x12345678;
    check(mmio8[0xfff1] == 0x56 && mmio32[0x3ffc] == 0x12345678, "memory behind MMIO exits");
    check(in32(0x5000) == 0xffffffff && in8(0x60) == 0xff, "ports of nobody read as ones");
}

static uint8_t cmos(uint8_t reg)
{
    out8(CMOS, reg);
    return in8(CMOS + 1);
}

static void check_clocks(void)
{
    uint32_t before = in32(PM + 8), after;
    do
        after = in32(PM + 8);
    while (after == before);
    check(after - before < 0x80000000, "the PM timer runs");
    uint8_t second = cmos(0), now;
    do
        now = cmos(0);
    while (now == second);
    uint32_t ticks = in32(PM + 8);
    second = now;
    do
        now = cmos(0);
    while (now == second);
    ticks = in32(PM + 8) - ticks;
    // A second by the clock, at 3579545 Hz; the machine may be slow, so the bounds are wide.
    check(ticks > 1000000 && ticks < 20000000, "clock and PM timer agree about a second");
    check(cmos(0x32) >= 0x20 && cmos(9) >= 0x26, "the century");
    check((in16(PM + 4) & 1) == 1, "ACPI mode is on");
}

static uint32_t pci_config(uint32_t slot, uint32_t reg)
{
    out32(0xcf8, 0x80000000 | slot << 11 | reg);
    return in32(0xcfc);
}

static void check_pci(void)
{
    const volatile uint32_t *ecam = (const volatile uint32_t *)0xe0000000;
    bool same = true;
    unsigned devices = 0;
    for (uint32_t slot = 0; slot < 32; slot++) {
        devices += pci_config(slot, 0) != 0xffffffff;
        for (uint32_t reg = 0; reg < 64; reg += 4)
            same &= pci_config(slot, reg) == ecam[(slot << 15 | reg) / 4];
    }
    check(pci_config(0, 8) >> 8 == 0x060000, "a host bridge in slot 0");
    check(devices > 1, "other PCI devices");
    check(same, "config space by ports and by ECAM is the same");
}

static void check_serial(void)
{
    uint8_t modem = in8(SERIAL + 4);
    out8(SERIAL + 4, 0x1a);
    bool lines = (in8(SERIAL + 6) & 0xf0) == 0x90;
    out8(SERIAL, 0x5a);
    bool looped = (in8(SERIAL + 5) & 1) && in8(SERIAL) == 0x5a;
    out8(SERIAL + 4, modem);
    check(lines && looped, "the serial port's loopback");
}

void kernel_main(uint32_t magic, const uint32_t *info)
{
    const char *options = (const char *)info[4];
    check_state(magic, info);
    print_info(info);
    check_serial();
    check_test_devices();
    check_clocks();
    check_pci();
    print(failed ? "multiboot: result=fail\n" : "multiboot: result=pass\n");
    if (failed)
        out8(EXIT, 0x20);
    if (has_word(options, "end=poweroff"))
        out16(PM + 4, 5 << 10 | 1 << 13);
    if (has_word(options, "end=reset"))
        out8(0xcf9, 0x06);
    out8(EXIT, 0x10);
}
