// idle: sleeps, and prints a heartbeat each second (seconds=N ends it; 0, the default, never).
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

bool test_idle(void)
{
    uint64_t seconds = option_number("seconds", 0);
    unsigned cpus = cpu_start_all();
    uint64_t start = time_now_ns();
    console_line("idle cpus=%u", cpus);
    for (uint64_t beat = 1; !seconds || beat <= seconds; beat++) {
        time_sleep_ns(1000000000);
        console_line("idle beat=%lu ms=%lu irqs=%lu", beat, (time_now_ns() - start) / 1000000,
                     this_cpu()->irq_total);
    }
    return true;
}
