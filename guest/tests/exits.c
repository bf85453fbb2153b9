// exits: what it costs to leave the guest for the hypervisor and to come back. Each access goes to
// where no device is, or to the serial port's line status, so that the way there and back is what
// counts. mode=NAME for one of them; count= accesses each (20000).
#include <stddef.h>

#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/ports.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    PORT_NOWHERE = 0x1f80,    // no machine has anything there
    PORT_LINE_STATUS = 0x3fd, // of COM1; reading it changes nothing
    BATCH = 100,              // accesses between two looks at the clock
};
#define MEMORY_NOWHERE 0xd0000000ul // gpa= for another one

static uint64_t memory_nowhere;

static void access_port_write(void)
{
    port_write8(PORT_NOWHERE, 0);
}

static void access_port_read(void)
{
    port_read8(PORT_NOWHERE);
}

static void access_serial(void)
{
    port_read8(PORT_LINE_STATUS);
}

static void access_memory_write(void)
{
    *(volatile uint32_t *)memory_nowhere = 0;
}

static void access_memory_read(void)
{
    (void)*(volatile uint32_t *)memory_nowhere;
}

static const struct {
    const char *name;
    void (*access)(void);
} modes[] = {
    {"port-write", access_port_write},   {"port-read", access_port_read},
    {"serial", access_serial},           {"memory-write", access_memory_write},
    {"memory-read", access_memory_read},
};

// The best batch is what an access costs when nothing else happens on the host.
static void measure(const char *name, void (*access)(void), uint64_t count)
{
    uint64_t total = 0, best = ~0ul, batches = (count + BATCH - 1) / BATCH;
    access(); // what the first one has to set up doesn't count
    for (uint64_t i = 0; i < batches; i++) {
        uint64_t start = time_tsc_ordered();
        for (int j = 0; j < BATCH; j++)
            access();
        uint64_t ticks = time_tsc_ordered() - start;
        total += ticks;
        best = ticks < best ? ticks : best;
    }
    console_line("exits mode=%s count=%lu mean_ns=%lu best_ns=%lu", name, batches * BATCH,
                 time_tsc_to_ns(total) / (batches * BATCH), time_tsc_to_ns(best) / BATCH);
}

bool test_exits(void)
{
    const char *wanted = option_string("mode", "all");
    uint64_t count = option_number("count", 20000);
    unsigned done = 0;
    cpu_start_all();
    time_tsc_hz();
    memory_nowhere = option_number("gpa", MEMORY_NOWHERE);
    pages_map_device(memory_nowhere, 4096);
    for (size_t i = 0; count && i < sizeof(modes) / sizeof(modes[0]); i++)
        if (!strcmp(wanted, "all") || !strcmp(wanted, modes[i].name)) {
            measure(modes[i].name, modes[i].access, count);
            done++;
        }
    test_summary("modes=%u", done);
    return done > 0;
}
