// power: waits for the power button (presses=N, 1), then ends by S5 unless exit= says otherwise.
// seconds= is the longest wait (0: for ever).
#include "guest/drivers/acpi.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/machine_end.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

// Sleeps until the SCI came once more; false when the time is over.
static bool sci_wait(uint64_t *seen, uint64_t end)
{
    struct cpu *cpu = this_cpu();
    for (;;) {
        uint64_t total = cpu->irq_total;
        if (cpu->irq_count[VECTOR_SCI] != *seen) {
            *seen = cpu->irq_count[VECTOR_SCI];
            return true;
        }
        if (end && time_tsc() >= end)
            return false;
        if (end)
            time_sleep_until(end);
        else
            cpu_sleep(total);
    }
}

bool test_power(void)
{
    cpu_start_all();
    uint64_t seen = this_cpu()->irq_count[VECTOR_SCI];
    if (!acpi_power_button_enable(this_cpu()->apic_id)) {
        test_summary("button=none");
        return false;
    }
    uint64_t seconds = option_number("seconds", 0), wanted = option_number("presses", 1);
    uint64_t end = seconds ? time_tsc() + time_ns_to_tsc(seconds * 1000000000) : 0;
    console_line("power ready");
    for (uint64_t presses = 0; presses < wanted;) {
        if (!sci_wait(&seen, end)) {
            test_summary("presses=%lu timeout", presses);
            return false;
        }
        if (acpi_power_button_take())
            console_line("power presses=%lu", ++presses);
    }
    test_summary("presses=%lu", wanted);
    return true;
}
