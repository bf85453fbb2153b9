// input: echoes each line that comes in by the serial port, for tests of consoles. The line "quit"
// ends it.
#include "guest/drivers/ioapic.h"
#include "guest/drivers/lapic.h"
#include "guest/drivers/serial.h"
#include "guest/layout.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/tests/test.h"

enum {
    SERIAL_ISA_LINE = 4,
    LINE_MAX = 1024,
};

static bool line_done(char *line, size_t length)
{
    line[length] = 0;
    console_line("input length=%lu line=\"%s\"", length, line);
    return !strcmp(line, "quit");
}

bool test_input(void)
{
    cpu_start_all();
    ioapic_route_isa(SERIAL_ISA_LINE, lapic_id(), VECTOR_FIRST_FREE);
    serial_interrupt_on_input();
    console_line("input ready");

    char line[LINE_MAX];
    size_t length = 0;
    unsigned lines = 0;
    for (;;) {
        uint64_t seen = this_cpu()->irq_total;
        char byte;
        if (!serial_read(&byte, 1)) {
            cpu_sleep(seen);
            continue;
        }
        if (byte != '\n' && byte != '\r') {
            if (length < sizeof(line) - 1)
                line[length++] = byte;
            continue;
        }
        if (!length)
            continue;
        lines++;
        if (line_done(line, length))
            break;
        length = 0;
    }
    test_summary("lines=%u", lines);
    return true;
}
