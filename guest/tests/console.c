// console: virtio-console. mode=echo (default) sends back each line that comes in, until "quit";
// mode=bulk sends size= bytes (16M) of lines that can be checked; mode=receive counts size= bytes
// and sums them up.
#include "guest/drivers/virtio_console.h"

#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/format.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/random.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    LINE_MAX = 1024,
    BULK_LINE = 64, // "NUMBER NOISE...\n": 16 hex digits, a blank, 46 digits, a newline
    BULK_LINES = 512,
};

static bool console_echo(void)
{
    static char line[LINE_MAX + 1];
    size_t length = 0;
    unsigned lines = 0;
    bool over = false;
    while (!over) {
        char byte;
        if (!virtio_console_read(&byte, 1, 0))
            continue;
        line[length++] = byte;
        if (byte != '\n' && length < LINE_MAX)
            continue;
        virtio_console_write(line, length);
        lines++;
        over = length >= 5 && !strncmp(line, "quit", 4);
        length = 0;
    }
    test_summary("lines=%u", lines);
    return true;
}

static void bulk_line(char *to, uint64_t number)
{
    char text[BULK_LINE + 1];
    format_text(text, sizeof(text), "%016lx %016lx%016lx%014lx\n", number, random_mix(number),
                random_mix(~number), number & 0xffffffffffffff);
    memcpy(to, text, BULK_LINE);
}

static bool console_bulk(void)
{
    static char chunk[BULK_LINE * BULK_LINES];
    uint64_t size = option_number("size", 16 << 20), sent = 0, number = 0;
    uint64_t start = time_now_ns();
    while (sent < size) {
        for (unsigned i = 0; i < BULK_LINES; i++)
            bulk_line(chunk + i * BULK_LINE, number++);
        uint64_t part = size - sent < sizeof(chunk) ? size - sent : sizeof(chunk);
        virtio_console_write(chunk, part);
        sent += part;
    }
    uint64_t us = (time_now_ns() - start) / 1000;
    test_summary("bytes=%lu mb_per_s=%lu", sent, us ? sent / us : 0);
    return true;
}

// The sum is FNV-1a (64 bits), so that the sender can compare.
static bool console_receive(void)
{
    static uint8_t bytes[4096];
    uint64_t size = option_number("size", 1 << 20), received = 0, sum = 0xcbf29ce484222325ul;
    uint64_t start = 0;
    while (received < size) {
        size_t part = virtio_console_read(bytes, sizeof(bytes), 0);
        if (!start)
            start = time_now_ns();
        for (size_t i = 0; i < part; i++)
            sum = (sum ^ bytes[i]) * 0x100000001b3ul;
        received += part;
    }
    uint64_t us = (time_now_ns() - start) / 1000;
    test_summary("bytes=%lu fnv1a=0x%016lx mb_per_s=%lu", received, sum, us ? received / us : 0);
    return true;
}

bool test_console(void)
{
    cpu_start_all();
    if (!virtio_console_open())
        return false;
    const char *mode = option_string("mode", "echo");
    console_line("console ready mode=%s", mode);
    test_summary("mode=%s", mode);
    if (!strcmp(mode, "echo"))
        return console_echo();
    if (!strcmp(mode, "bulk"))
        return console_bulk();
    if (!strcmp(mode, "receive"))
        return console_receive();
    console_line("console mode=%s unknown", mode);
    return false;
}
