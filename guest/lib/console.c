#include "guest/lib/console.h"

#include "guest/drivers/serial.h"
#include "guest/lib/format.h"
#include "guest/lib/memory.h"
#include "guest/lib/spinlock.h"

static struct spinlock lock; // guards the order of bytes
static void (*output)(const void *bytes, size_t size) = serial_write;

void console_output(void (*write)(const void *bytes, size_t size))
{
    output = write;
}

void console_write(const void *bytes, size_t size)
{
    spinlock_take(&lock);
    output(bytes, size);
    spinlock_release(&lock);
}

void console_line(const char *format, ...)
{
    char line[2400];
    const size_t room = sizeof(line) - 1; // for the newline
    size_t length = format_text(line, room, "ferry-guest: ");
    va_list arguments;
    va_start(arguments, format);
    length += format_arguments(line + length, room - length, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    console_write(line, length);
}
