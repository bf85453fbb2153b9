#include "base/error.h"

#include <stdio.h>
#include <string.h>

static void format_into(struct error *err, int code, const char *format, va_list args)
{
    err->code = code;
    vsnprintf(err->message, sizeof(err->message), format, args);
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        format_into(err, code, format, args);
        va_end(args);
    }
    return -code;
}

int error_set_errno(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        format_into(err, code, format, args);
        va_end(args);
        size_t used = strlen(err->message);
        char reason[128];
        snprintf(err->message + used, sizeof(err->message) - used, ": %s",
                 strerror_r(code, reason, sizeof(reason)));
    }
    return -code;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return -EIO;
    char old[sizeof(err->message)];
    memcpy(old, err->message, sizeof(old));
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof(err->message) - used, ": %s", old);
    return -err->code;
}
