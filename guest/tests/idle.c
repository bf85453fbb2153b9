// idle: sleeps, and prints a heartbeat each second (seconds=N ends it; 0, the default, never). With
// pulse=MS it looks at a port that often in between, so that whoever watches the machine's exits
// sees that it runs.
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/ports.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum { PORT_OF_NOBODY = 0xee };

static void sleep_a_second(uint64_t pulse)
{
    const uint64_t second = 1000000000;
    uint64_t step = pulse && pulse < 1000 ? pulse * 1000000 : second;
    for (uint64_t slept = 0; slept < second; slept += step) {
        time_sleep_ns(step);
        if (step != second)
            port_read8(PORT_OF_NOBODY);
    }
}

bool test_idle(void)
{
    uint64_t seconds = option_number("seconds", 0), pulse = option_number("pulse", 0);
    unsigned cpus = cpu_start_all();
    uint64_t start = time_now_ns();
    console_line("idle cpus=%u", cpus);
    for (uint64_t beat = 1; !seconds || beat <= seconds; beat++) {
        sleep_a_second(pulse);
        console_line("idle beat=%lu ms=%lu irqs=%lu", beat, (time_now_ns() - start) / 1000000,
                     this_cpu()->irq_total);
    }
    return true;
}
