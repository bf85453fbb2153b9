#include "guest/lib/format.h"

#include <stdbool.h>
#include <stdint.h>

struct output {
    char *to;
    size_t size; // with room for the NUL
    size_t used;
};

static void output_character(struct output *output, char character)
{
    if (output->used + 1 < output->size)
        output->to[output->used++] = character;
}

static void output_number(struct output *output, uint64_t value, bool negative, unsigned base,
                          unsigned width, char padding)
{
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative)
        digits[count++] = '-';
    for (; width > count; width--)
        output_character(output, padding);
    while (count)
        output_character(output, digits[--count]);
}

static void output_string(struct output *output, const char *text, unsigned width)
{
    for (; *text; text++) {
        output_character(output, *text);
        if (width)
            width--;
    }
    for (; width; width--)
        output_character(output, ' ');
}

size_t format_arguments(char *to, size_t size, const char *format, va_list arguments)
{
    struct output output = {.to = to, .size = size};
    for (; *format; format++) {
        if (*format != '%') {
            output_character(&output, *format);
            continue;
        }
        format++;
        char padding = *format == '0' ? '0' : ' ';
        unsigned width = 0;
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (unsigned)(*format - '0');
        bool is_long = *format == 'l';
        if (is_long)
            format++;
        if (*format == 'd') {
            int64_t value = is_long ? va_arg(arguments, long) : va_arg(arguments, int);
            output_number(&output, value < 0 ? -(uint64_t)value : (uint64_t)value, value < 0, 10,
                          width, padding);
        } else if (*format == 'u' || *format == 'x') {
            uint64_t value =
                is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned);
            output_number(&output, value, false, *format == 'u' ? 10 : 16, width, padding);
        } else if (*format == 's') {
            output_string(&output, va_arg(arguments, const char *), width);
        } else if (*format == 'c') {
            output_character(&output, (char)va_arg(arguments, int));
        } else if (*format) {
            output_character(&output, *format);
        } else {
            break;
        }
    }
    if (size)
        to[output.used] = 0;
    return output.used;
}

size_t format_text(char *to, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t length = format_arguments(to, size, format, arguments);
    va_end(arguments);
    return length;
}
