// hello: what the machine looks like from inside. Passes when every vCPU that the MADT lists runs.
#include "guest/drivers/acpi.h"
#include "guest/drivers/lapic.h"
#include "guest/lib/boot_parameters.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/kvm.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

bool test_hello(void)
{
    const struct boot_parameters *boot = boot_parameters();
    console_line("hello command_line=\"%s\"", options_line());
    for (unsigned i = 0; i < boot->range_count; i++)
        console_line("hello memory start=0x%lx size=0x%lx type=%u", boot->ranges[i].start,
                     boot->ranges[i].size, boot->ranges[i].type);
    if (boot->module_size)
        console_line("hello module start=0x%lx size=0x%lx", boot->module_start, boot->module_size);

    unsigned cpus = cpu_start_all();
    uint32_t apic_ids[CPU_MAX];
    unsigned listed = acpi_cpus(apic_ids, CPU_MAX);
    uint64_t wanted = option_number("cpus", listed ? listed : 1);
    console_line("hello tsc_hz=%lu tsc_source=%s", time_tsc_hz(), time_tsc_source());
    test_summary("boot=%s cpus=%u memory_kib=%lu acpi=%u apic=%s kvm=%u", boot->protocol, cpus,
                 memory_map_total() >> 10, acpi_present(), lapic_x2apic() ? "x2apic" : "xapic",
                 kvm_present());
    return cpus == wanted;
}
