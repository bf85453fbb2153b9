// A test: named on the command line as test=NAME, with parameters as key=value.
#pragma once

#include <stdbool.h>

struct test {
    const char *name;
    const char *what;
    bool (*run)(void); // true: passed
};

// Words for the last line, "test=NAME <summary> result=pass"; each call adds.
void test_summary(const char *format, ...) __attribute__((format(printf, 1, 2)));

bool test_balloon(void);
bool test_console(void);
bool test_blk(void);
bool test_crash(void);
bool test_dirty(void);
bool test_exits(void);
bool test_gap(void);
bool test_hello(void);
bool test_hostile(void);
bool test_hotplug(void);
bool test_idle(void);
bool test_input(void);
bool test_irq(void);
bool test_net(void);
bool test_pattern(void);
bool test_power(void);
bool test_reset(void);
bool test_rng(void);
bool test_spin(void);
bool test_touch(void);
bool test_vsock(void);
