#include "vmm/boot/acpi_tables.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/acpi_pm.h"
#include "vmm/boot/dsdt.h"
#include "vmm/layout.h"
#include "vmm/machine_config.h"

// Where: RSDP and FACS in the first page (which stays reserved), the other tables from the next
// page to 1 MiB (which the guest may reclaim); memory_map.c says so to the guest.
#define RSDP_ADDRESS   LAYOUT_ACPI_TABLES
#define FACS_ADDRESS   (LAYOUT_ACPI_TABLES + 0x40)
#define TABLES_ADDRESS (LAYOUT_ACPI_TABLES + 0x1000)

enum {
    ALIGNMENT = 16,
    AREA_SIZE = 0x4000, // more than 64 CPUs take
    RSDP_SIZE = 36,
    FACS_SIZE = 64,
    HEADER_SIZE = 36,
    HEADER_LENGTH = 4, // offset of the length, of the checksum
    HEADER_CHECKSUM = 9,

    // FADT (5.2.9): flags.
    FADT_WBINVD = 1 << 0,
    FADT_PROCESSOR_C1 = 1 << 2,
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_NO_FIXED_RTC = 1 << 6,
    FADT_TIMER_32_BIT = 1 << 8,
    FADT_RESET_REGISTER = 1 << 10,
    // IA-PC boot architecture flags: no 8042 (its bit stays 0), no VGA, no ASPM.
    BOOT_LEGACY_DEVICES = 1 << 0,
    BOOT_NO_VGA = 1 << 2,
    BOOT_NO_ASPM = 1 << 4,
    PROFILE_ENTERPRISE_SERVER = 4,
    NO_C_STATE = 0xffff, // latency that says that the state isn't there
    RESET_VALUE = 0x06,
    CMOS_CENTURY = 0x32,

    // Generic addresses (5.2.3.2).
    SPACE_IO = 1,
    ACCESS_BYTE = 1,
    ACCESS_WORD = 2,
    ACCESS_DWORD = 3,

    // MADT (5.2.12).
    MADT_PCAT_COMPATIBLE = 1,
    MADT_LOCAL_APIC = 0,
    MADT_IO_APIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LOCAL_APIC_NMI = 4,
    MADT_LOCAL_X2APIC = 9,
    MADT_LOCAL_X2APIC_NMI = 10,
    MADT_ENABLED = 1,
    MADT_ACTIVE_HIGH_LEVEL = 1 | 3 << 2,
    MADT_ALL_PROCESSORS = 0xff,
    X2APIC_FROM = 255, // ids that don't fit an 8-bit APIC
    NMI_LINT = 1,
};

static uint8_t checksum(const uint8_t *bytes, size_t length)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

// The tables' area as it grows; `at` is the gpa of its start.
struct area {
    struct byte_writer writer;
    uint64_t at;
};

// Starts a table: pads, writes its header, returns its offset in the area.
static size_t table_begin(struct area *area, const char *signature, uint8_t revision)
{
    struct byte_writer *w = &area->writer;
    while (w->length % ALIGNMENT && !w->failed)
        byte_writer_u8(w, 0);
    size_t start = w->length;
    byte_writer_bytes(w, signature, 4);
    byte_writer_u32(w, 0); // length
    byte_writer_u8(w, revision);
    byte_writer_u8(w, 0); // checksum
    byte_writer_bytes(w, "FERRY ", 6);
    byte_writer_bytes(w, "FERRYVM ", 8);
    byte_writer_u32(w, 1); // OEM revision
    byte_writer_bytes(w, "FRRY", 4);
    byte_writer_u32(w, 1); // creator revision
    return start;
}

// Ends the table: length and checksum. Returns its gpa.
static uint64_t table_end(struct area *area, size_t start)
{
    struct byte_writer *w = &area->writer;
    if (!w->failed) {
        uint8_t *table = w->data + start;
        bytes_put_u32(table + HEADER_LENGTH, (uint32_t)(w->length - start));
        table[HEADER_CHECKSUM] = checksum(table, w->length - start);
    }
    return area->at + start;
}

static void write_zeros(struct byte_writer *w, unsigned count)
{
    while (count-- > 0)
        byte_writer_u8(w, 0);
}

static void write_address(struct byte_writer *w, uint8_t bits, uint8_t access, uint64_t port)
{
    byte_writer_u8(w, SPACE_IO);
    byte_writer_u8(w, bits);
    byte_writer_u8(w, 0);
    byte_writer_u8(w, access);
    byte_writer_u64(w, port);
}

static uint64_t write_dsdt(struct area *area)
{
    // As iasl made it, with its own header and checksum.
    while (area->writer.length % ALIGNMENT && !area->writer.failed)
        byte_writer_u8(&area->writer, 0);
    uint64_t at = area->at + area->writer.length;
    byte_writer_bytes(&area->writer, dsdt_aml_code, sizeof(dsdt_aml_code));
    return at;
}

// The second half of the FADT repeats the first with generic addresses.
static void write_fadt_extended(struct byte_writer *w, uint64_t dsdt)
{
    byte_writer_u64(w, 0); // X_FIRMWARE_CTRL: the 32-bit field counts
    byte_writer_u64(w, dsdt);
    write_address(w, 8 * ACPI_PM1_EVENT_LENGTH, ACCESS_WORD, LAYOUT_PORT_PM + ACPI_PM1_EVENT);
    write_zeros(w, 12); // PM1b
    write_address(w, 8 * ACPI_PM1_CONTROL_LENGTH, ACCESS_WORD, LAYOUT_PORT_PM + ACPI_PM1_CONTROL);
    write_zeros(w, 12 + 12); // PM1b, PM2
    write_address(w, 8 * ACPI_PM_TIMER_LENGTH, ACCESS_DWORD, LAYOUT_PORT_PM + ACPI_PM_TIMER);
    write_address(w, 8 * ACPI_GPE0_LENGTH, ACCESS_BYTE, LAYOUT_PORT_GPE0);
    write_zeros(w, 12 + 12 + 12);         // GPE1, sleep control and status of reduced hardware
    byte_writer_bytes(w, "ferry\0\0", 8); // hypervisor vendor
}

static uint64_t write_fadt(struct area *area, uint64_t dsdt)
{
    struct byte_writer *w = &area->writer;
    size_t start = table_begin(area, "FACP", 6);
    byte_writer_u32(w, (uint32_t)FACS_ADDRESS);
    byte_writer_u32(w, (uint32_t)dsdt);
    byte_writer_u8(w, 0);
    byte_writer_u8(w, PROFILE_ENTERPRISE_SERVER);
    byte_writer_u16(w, LAYOUT_GSI_SCI);
    byte_writer_u32(w, 0); // SMI_CMD: always in ACPI mode
    write_zeros(w, 4);     // ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT
    byte_writer_u32(w, LAYOUT_PORT_PM + ACPI_PM1_EVENT);
    byte_writer_u32(w, 0);
    byte_writer_u32(w, LAYOUT_PORT_PM + ACPI_PM1_CONTROL);
    byte_writer_u32(w, 0);
    byte_writer_u32(w, 0); // PM2
    byte_writer_u32(w, LAYOUT_PORT_PM + ACPI_PM_TIMER);
    byte_writer_u32(w, LAYOUT_PORT_GPE0);
    byte_writer_u32(w, 0); // GPE1
    byte_writer_u8(w, ACPI_PM1_EVENT_LENGTH);
    byte_writer_u8(w, ACPI_PM1_CONTROL_LENGTH);
    byte_writer_u8(w, 0);
    byte_writer_u8(w, ACPI_PM_TIMER_LENGTH);
    byte_writer_u8(w, ACPI_GPE0_LENGTH);
    write_zeros(w, 3); // GPE1 length and base, CST_CNT
    byte_writer_u16(w, NO_C_STATE);
    byte_writer_u16(w, NO_C_STATE);
    write_zeros(w, 2 + 2 + 1 + 1); // flush size and stride, duty cycle
    write_zeros(w, 2);             // alarm day and month: not there
    byte_writer_u8(w, CMOS_CENTURY);
    byte_writer_u16(w, BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM);
    byte_writer_u8(w, 0);
    byte_writer_u32(w, FADT_WBINVD | FADT_PROCESSOR_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC |
                           FADT_TIMER_32_BIT | FADT_RESET_REGISTER);
    write_address(w, 8, ACCESS_BYTE, LAYOUT_PORT_RESET);
    byte_writer_u8(w, RESET_VALUE);
    byte_writer_u16(w, 0); // ARM
    byte_writer_u8(w, 4);  // of ACPI 6.4
    write_fadt_extended(w, dsdt);
    return table_end(area, start);
}

static void write_cpu(struct byte_writer *w, uint32_t uid, uint32_t apic_id)
{
    if (apic_id < X2APIC_FROM) {
        byte_writer_u8(w, MADT_LOCAL_APIC);
        byte_writer_u8(w, 8);
        byte_writer_u8(w, (uint8_t)uid);
        byte_writer_u8(w, (uint8_t)apic_id);
        byte_writer_u32(w, MADT_ENABLED);
    } else {
        byte_writer_u8(w, MADT_LOCAL_X2APIC);
        byte_writer_u8(w, 16);
        byte_writer_u16(w, 0);
        byte_writer_u32(w, apic_id);
        byte_writer_u32(w, MADT_ENABLED);
        byte_writer_u32(w, uid);
    }
}

// ISA interrupt `source` reaches `gsi` with these flags.
static void write_override(struct byte_writer *w, uint8_t source, uint32_t gsi, uint16_t flags)
{
    byte_writer_u8(w, MADT_OVERRIDE);
    byte_writer_u8(w, 10);
    byte_writer_u8(w, 0);
    byte_writer_u8(w, source);
    byte_writer_u32(w, gsi);
    byte_writer_u16(w, flags);
}

static uint64_t write_madt(struct area *area, const struct acpi_tables_config *config)
{
    struct byte_writer *w = &area->writer;
    size_t start = table_begin(area, "APIC", 5);
    bool any_x2apic = false;
    byte_writer_u32(w, (uint32_t)LAYOUT_LAPIC);
    byte_writer_u32(w, MADT_PCAT_COMPATIBLE);
    for (unsigned i = 0; i < config->cpus; i++) {
        write_cpu(w, i, config->apic_ids[i]);
        any_x2apic |= config->apic_ids[i] >= X2APIC_FROM;
    }
    byte_writer_u8(w, MADT_IO_APIC);
    byte_writer_u8(w, 12);
    byte_writer_u8(w, 0); // its id, as KVM's register says
    byte_writer_u8(w, 0);
    byte_writer_u32(w, (uint32_t)LAYOUT_IOAPIC);
    byte_writer_u32(w, 0);
    write_override(w, 0, 2, 0); // the timer
    write_override(w, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, MADT_ACTIVE_HIGH_LEVEL);
    byte_writer_u8(w, MADT_LOCAL_APIC_NMI);
    byte_writer_u8(w, 6);
    byte_writer_u8(w, MADT_ALL_PROCESSORS);
    byte_writer_u16(w, 0);
    byte_writer_u8(w, NMI_LINT);
    if (any_x2apic) {
        byte_writer_u8(w, MADT_LOCAL_X2APIC_NMI);
        byte_writer_u8(w, 12);
        byte_writer_u16(w, 0);
        byte_writer_u32(w, UINT32_MAX); // all processors
        byte_writer_u8(w, NMI_LINT);
        write_zeros(w, 3);
    }
    return table_end(area, start);
}

static uint64_t write_mcfg(struct area *area)
{
    struct byte_writer *w = &area->writer;
    size_t start = table_begin(area, "MCFG", 1);
    write_zeros(w, 8);
    byte_writer_u64(w, LAYOUT_PCI_ECAM);
    byte_writer_u16(w, 0); // segment
    byte_writer_u8(w, 0);  // first bus
    byte_writer_u8(w, 0);  // last bus
    write_zeros(w, 4);
    return table_end(area, start);
}

static uint64_t write_xsdt(struct area *area, const uint64_t *tables, unsigned count)
{
    size_t start = table_begin(area, "XSDT", 1);
    for (unsigned i = 0; i < count; i++)
        byte_writer_u64(&area->writer, tables[i]);
    return table_end(area, start);
}

static void build_rsdp(uint8_t *rsdp, uint64_t xsdt)
{
    memset(rsdp, 0, RSDP_SIZE);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "FERRY ", 6);
    rsdp[15] = 2; // revision: with XSDT
    bytes_put_u32(rsdp + 20, RSDP_SIZE);
    bytes_put_u64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, RSDP_SIZE);
}

static void build_facs(uint8_t *facs)
{
    memset(facs, 0, FACS_SIZE);
    memcpy(facs, "FACS", 4);
    bytes_put_u32(facs + 4, FACS_SIZE);
    facs[32] = 2; // version
}

int acpi_tables_write(const struct acpi_tables_config *config, struct guest_memory *memory,
                      uint64_t *rsdp_address, struct error *err)
{
    uint8_t buffer[AREA_SIZE], rsdp[RSDP_SIZE], facs[FACS_SIZE];
    struct area area = {.at = TABLES_ADDRESS};
    if (config->cpus == 0 || config->cpus > MACHINE_CPUS_LIMIT)
        return error_set(err, EINVAL, "ACPI tables for %u CPUs: 1 to %d are possible", config->cpus,
                         MACHINE_CPUS_LIMIT);
    byte_writer_init_fixed(&area.writer, buffer, sizeof(buffer));
    uint64_t dsdt = write_dsdt(&area);
    const uint64_t tables[] = {write_fadt(&area, dsdt), write_madt(&area, config),
                               write_mcfg(&area)};
    uint64_t xsdt = write_xsdt(&area, tables, sizeof(tables) / sizeof(tables[0]));
    build_rsdp(rsdp, xsdt);
    build_facs(facs);
    if (area.writer.failed ||
        guest_memory_write(memory, TABLES_ADDRESS, buffer, area.writer.length) < 0 ||
        guest_memory_write(memory, FACS_ADDRESS, facs, sizeof(facs)) < 0 ||
        guest_memory_write(memory, RSDP_ADDRESS, rsdp, sizeof(rsdp)) < 0)
        return error_set(err, ENOSPC, "no room for the ACPI tables below 1 MiB");
    *rsdp_address = RSDP_ADDRESS;
    return 0;
}
