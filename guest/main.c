// The test guest: says hello, runs the test that the command line names, ends with its status.
#include <stdarg.h>
#include <stddef.h>

#include "guest/drivers/serial.h"
#include "guest/drivers/virtio_console.h"
#include "guest/lib/boot_parameters.h"
#include "guest/lib/console.h"
#include "guest/lib/exception.h"
#include "guest/lib/format.h"
#include "guest/lib/machine_end.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/tests/test.h"

static const struct test tests[] = {
    {"hello", "says what the machine looks like", test_hello},
    {"idle", "sleeps, with a heartbeat line each second", test_idle},
    {"pattern", "walks memory, adding 1 to each page, and checks it", test_pattern},
    {"dirty", "writes memory at a rate", test_dirty},
    {"touch", "costs of the first and later writes to pages", test_touch},
    {"gap", "longest pause of each vCPU, and clocks that go backwards", test_gap},
    {"irq", "rates and latencies of interrupts", test_irq},
    {"exits", "what leaving the guest costs", test_exits},
    {"blk", "a virtio disk: verify, loop, bench", test_blk},
    {"net", "a virtio network card: echo, bulk, round trips", test_net},
    {"console", "virtio-console: echo, bulk", test_console},
    {"rng", "entropy from virtio-rng", test_rng},
    {"balloon", "gives memory back to the host, and takes it again", test_balloon},
    {"hostile", "attacks every virtio device, and looks whether a reset heals it", test_hostile},
    {"hotplug", "uses disks that come and go", test_hotplug},
    {"vsock", "connections to and from the host: echo", test_vsock},
    {"power", "waits for the power button", test_power},
    {"reset", "resets the machine", test_reset},
    {"crash", "each state that a machine cannot go on from", test_crash},
    {"input", "echoes lines from the serial port", test_input},
    {"spin", "counts work and steal time of each vCPU", test_spin},
};

static char summary[1024];
static size_t summary_length;

void test_summary(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (summary_length + 1 < sizeof(summary))
        summary[summary_length++] = ' ';
    summary_length += format_arguments(summary + summary_length, sizeof(summary) - summary_length,
                                       format, arguments);
    va_end(arguments);
}

static const struct test *test_find(const char *name)
{
    for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        if (!strcmp(tests[i].name, name))
            return &tests[i];
    return NULL;
}

static void tests_list(void)
{
    for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        console_line("test=%s: %s", tests[i].name, tests[i].what);
}

void guest_main(void);
void guest_main(void)
{
    exception_table_fill();
    boot_parameters_read();
    const char *name = option_string("test", "hello");
    console_line("start boot=%s test=%s", boot_parameters()->protocol, name);
    pages_start();
    if (!serial_present() || option_is("out", "virtio"))
        virtio_console_take_output();

    const struct test *test = test_find(name);
    if (!test) {
        tests_list();
        console_line("test=%s unknown result=fail", name);
        machine_end(1);
    }
    bool passed = test->run();
    console_line("test=%s%s result=%s", name, summary, passed ? "pass" : "fail");
    machine_end(passed ? 0 : 1);
}
