// Errors that a person will read: what was being done, what is wrong, what to do.
//
// A function that can fail for a reason worth a sentence takes a `struct error *` last and returns
// 0 or a negative errno; on failure it has set the message. Callers add what they were doing with
// error_prefix().
#pragma once

#include <errno.h>
#include <stdarg.h>

struct error {
    int code;          // a positive errno; 0 while nothing went wrong
    char message[600]; // one sentence, no newline
};

// Sets the message and returns -code, so that `return error_set(err, EINVAL, "...")` is the idiom.
// `err` may be NULL. `code` is positive.
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// The same with ": strerror(code)" behind the sentence.
int error_set_errno(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Puts "what: " before the message that is there; returns -err->code.
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
