// The panic device.
#include <check.h>
#include <string.h>

#include "devices/pvpanic.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

static struct fake_machine fake;
static struct device *device;

static void set_up(void)
{
    const struct pvpanic_config config = {.id = "panic0", .port = 0x505};
    memset(&fake, 0, sizeof(fake));
    fake_machine_open(&fake);
    ck_assert_int_eq(pvpanic_create(&device, &fake.bus, &fake.ports, &config, NULL), 0);
}

static void tear_down(void)
{
    device->ops->destroy(device);
    ck_assert_uint_eq(fake_in(&fake, 0x505, 1), 0xff); // nobody is there any more
    fake_machine_close(&fake);
}

START_TEST(what_may_be_said)
{
    ck_assert_uint_eq(fake_in(&fake, 0x505, 1), PVPANIC_EVENTS);
    ck_assert_uint_eq(fake.request_count, 0);
}
END_TEST

START_TEST(what_is_said)
{
    static const struct {
        uint64_t written;
        int value; // of the request; 0 = none
    } cases[] = {{1, 1}, {2, 2}, {3, 3}, {0, 0}, {0xfc, 0}, {0xfd, 1}};
    unsigned requests = 0;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_out(&fake, 0x505, 1, cases[i].written);
        requests += cases[i].value != 0;
        ck_assert_uint_eq(fake.request_count, requests);
        if (cases[i].value) {
            ck_assert_int_eq(fake.last_request, MACHINE_REQUEST_PANIC);
            ck_assert_int_eq(fake.last_value, cases[i].value);
        }
    }
}
END_TEST

START_TEST(a_taken_port_is_refused)
{
    const struct pvpanic_config config = {.id = "panic1", .port = 0x505};
    struct device *second;
    struct error err = {0};
    ck_assert_int_lt(pvpanic_create(&second, &fake.bus, &fake.ports, &config, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "0x505"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pvpanic");
    TCase *t = tcase_create("pvpanic");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, what_may_be_said);
    tcase_add_test(t, what_is_said);
    tcase_add_test(t, a_taken_port_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
