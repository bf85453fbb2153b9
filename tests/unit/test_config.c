// The machine description: JSON both ways, option strings, and what is refused with which words.
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "devices/net/net_mac.h"
#include "tests/unit/run_suite.h"
#include "vmm/machine_config.h"

static struct machine_config config;
static struct error err;

static void set_up(void)
{
    err = (struct error){0};
    ck_assert_int_eq(machine_config_init(&config), 0);
    strcpy(config.name, "web");
    config.kernel = strdup("/boot/vmlinuz");
}

static void tear_down(void)
{
    machine_config_free(&config);
}

static int overlay(const char *text)
{
    json_t *object = json_loads(text, JSON_DECODE_ANY, NULL);
    ck_assert_msg(object != NULL, "test data is not JSON: %s", text);
    int r = machine_config_from_json(&config, object, &err);
    json_decref(object);
    return r;
}

START_TEST(defaults)
{
    ck_assert_uint_eq(config.cpus, 1);
    ck_assert_uint_eq(config.memory, 512u << 20);
    ck_assert_str_eq(config.cpu_model, "host");
    ck_assert_str_eq(config.append, "");
    ck_assert(config.virtio_console && config.rng && !config.debug_exit && !config.force);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
}
END_TEST

START_TEST(json_round_trip)
{
    ck_assert_int_eq(
        overlay(
            "{\"uuid\": \"01234567-89ab-cdef-0123-456789abcdef\", \"initrd\": \"/i\","
            "\"append\": \"a \\u00e4 b\", \"cpus\": 64, \"memory\": \"3G\", "
            "\"cpu\": \"x86-64-v3,+avx2\", \"disks\": [{\"path\": \"/a,b\"}, "
            "{\"path\": \"/c\", \"read_only\": true, \"cache\": \"none\"}], \"nets\": [{\"kind\": "
            "\"tap\", "
            "\"interface\": \"tap0\", \"mac\": \"52:54:00:12:34:5f\"}, {\"kind\": \"tap\", "
            "\"interface\": \"tap1\", \"queues\": 4}], \"virtio_console\": false, \"rng\": false,"
            "\"balloon\": true, "
            "\"on_reboot\": \"exit\", \"on_triple_fault\": \"reset\", \"debug_exit\": true, "
            "\"force\": true}"),
        0);
    json_t *first = machine_config_to_json(&config);
    machine_config_free(&config);
    machine_config_init(&config);
    ck_assert_int_eq(machine_config_from_json(&config, first, &err), 0);
    json_t *second = machine_config_to_json(&config);
    ck_assert(json_equal(first, second));
    ck_assert_uint_eq(config.memory, UINT64_C(3) << 30);
    ck_assert_uint_eq(config.disk_count, 2);
    ck_assert_str_eq(config.disks[0].path, "/a,b");
    ck_assert(!config.disks[0].read_only && config.disks[1].read_only);
    ck_assert_int_eq(config.disks[1].cache, BLOCK_CACHE_NONE);
    ck_assert_uint_eq(config.nets[0].mac[5], 0x5f);
    ck_assert_uint_eq(config.nets[0].queues, 1);
    ck_assert_uint_eq(config.nets[1].queues, 4);
    ck_assert(config.balloon);
    ck_assert_int_eq(config.on_reboot, ON_REBOOT_EXIT);
    ck_assert_int_eq(config.on_triple_fault, ON_TRIPLE_FAULT_RESET);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
    json_decref(first);
    json_decref(second);
}
END_TEST

START_TEST(overlay_keeps_the_rest)
{
    overlay("{\"disks\": [{\"path\": \"/a\"}], \"cpus\": 3}");
    ck_assert_int_eq(overlay("{\"append\": \"quiet\"}"), 0);
    ck_assert_uint_eq(config.cpus, 3);
    ck_assert_uint_eq(config.disk_count, 1);
    ck_assert_str_eq(config.kernel, "/boot/vmlinuz");
    ck_assert_int_eq(overlay("{\"disks\": []}"), 0);
    ck_assert_uint_eq(config.disk_count, 0);
}
END_TEST

static const struct {
    const char *json, *part; // of the sentence
} refused[] = {
    {"[]", "object"},
    {"7", "object"},
    {"{\"cpuz\": 1}", "'cpuz'"},
    {"{\"cpus\": \"2\"}", "cpus: must be a number"},
    {"{\"cpus\": 0}", "cpus: must be"},
    {"{\"cpus\": 65}", "cpus: must be"},
    {"{\"cpus\": -1}", "cpus: must be"},
    {"{\"memory\": \"12Q\"}", "memory: must be a size"},
    {"{\"memory\": -5}", "memory: must be a size"},
    {"{\"memory\": 1.5}", "memory: must be a size"},
    {"{\"name\": \"Web\"}", "name: 'Web' is not a machine name"},
    {"{\"name\": \"../x\"}", "name: "},
    {"{\"name\": 5}", "name: must be a string"},
    {"{\"uuid\": \"xyz\"}", "uuid: must be a UUID"},
    {"{\"kernel\": 1}", "kernel: must be a string"},
    {"{\"append\": null}", "append: must be a string"},
    {"{\"rng\": 1}", "rng: must be true or false"},
    {"{\"on_reboot\": \"reset\"}", "on_reboot: must be \"restart\" or \"exit\""},
    {"{\"on_panic\": 1}", "on_panic: must be \"crash\", \"reset\", \"pause\" or \"ignore\""},
    {"{\"disks\": {}}", "disks: must be an array"},
    {"{\"disks\": [1]}", "disks: number 0: must be an object"},
    {"{\"disks\": [{}]}", "disks: number 0: no path"},
    {"{\"disks\": [{\"path\": \"/a\"}, {\"path\": \"/b\", \"ro\": true}]}", "number 1: 'ro'"},
    {"{\"disks\": [{\"path\": \"/a\", \"read_only\": 1}]}", "read_only: must be"},
    {"{\"nets\": [{\"kind\": \"users\"}]}", "kind: must be \"tap\""},
    {"{\"nets\": [{\"kind\": \"user\", \"forward\": [\"80\"]}]}", "forward: must be of"},
    {"{\"nets\": [{\"kind\": \"user\", \"interface\": \"a\"}]}", "'interface'"},
    {"{\"nets\": [{\"kind\": \"socket\"}]}", "no path"},
    {"{\"nets\": [{\"kind\": \"socket\", \"path\": \"a\", \"listen\": 1}]}", "listen: must be"},
    {"{\"nets\": [{\"kind\": \"tap\"}]}", "no interface"},
    {"{\"nets\": [{\"kind\": \"none\", \"interface\": \"a\"}]}", "'interface'"},
    {"{\"nets\": [{\"kind\": \"tap\", \"interface\": \"a\", \"mac\": \"1\"}]}", "mac: '1'"},
    {"{\"nets\": [{\"kind\": 5}]}", "kind: must be a string"},
    {"{\"nets\": [{\"kind\": \"tap\", \"interface\": \"a\", \"queues\": 9}]}", "queues: must be"},
    {"{\"disks\": [{\"path\": \"/a\", \"cache\": \"fast\"}]}", "cache: must be"},
};

START_TEST(json_is_strict)
{
    ck_assert_int_eq(overlay(refused[_i].json), -EINVAL);
    ck_assert_msg(strstr(err.message, refused[_i].part) != NULL, "%s: said '%s'", refused[_i].json,
                  err.message);
}
END_TEST

START_TEST(nets_without_taps)
{
    ck_assert_int_eq(
        machine_config_add_net(&config, "user,tcp=8080:80,udp=53,tcp=127.0.0.1/22", &err), 0);
    ck_assert_int_eq(
        machine_config_add_net(&config, "socket=/run/x,listen,mac=02:00:00:00:00:09", &err), 0);
    ck_assert_int_eq(machine_config_add_net(&config, "socket=/run/x", &err), 0);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
    for (int pass = 0; pass < 2; pass++) {
        ck_assert_int_eq(config.nets[0].kind, NET_USER);
        ck_assert_str_eq(config.nets[0].forwards, "tcp=8080:80,udp=53,tcp=127.0.0.1/22");
        ck_assert_int_eq(config.nets[1].kind, NET_SOCKET);
        ck_assert_str_eq(config.nets[1].interface, "/run/x");
        ck_assert(config.nets[1].listens && !config.nets[2].listens);
        ck_assert_uint_eq(config.nets[1].mac[5], 9);
        json_t *json = machine_config_to_json(&config);
        machine_config_free(&config);
        machine_config_init(&config);
        ck_assert_int_eq(machine_config_from_json(&config, json, &err), 0);
        json_decref(json);
    }
}
END_TEST

START_TEST(vsock_option)
{
    ck_assert_int_eq(machine_config_set_vsock(&config, "cid=7,socket=/run/v,x", &err), 0);
    ck_assert_uint_eq(config.vsock.cid, 7);
    ck_assert_str_eq(config.vsock.socket, "/run/v,x");
    json_t *json = machine_config_to_json(&config);
    machine_config_free(&config);
    machine_config_init(&config);
    ck_assert_int_eq(machine_config_from_json(&config, json, &err), 0);
    ck_assert_uint_eq(config.vsock.cid, 7);
    json_decref(json);
    ck_assert_int_eq(overlay("{\"vsock\": null}"), 0);
    ck_assert_ptr_null(config.vsock.socket);
    static const char *const bad[] = {"",
                                      "cid=3",
                                      "cid=2,socket=/a",
                                      "cid=,socket=/a",
                                      "cid=-5,socket=/a",
                                      "cid=4294967295,socket=/a",
                                      "cid=3,socket=",
                                      "socket=/a,cid=3",
                                      "cid=3x,socket=/a"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(machine_config_set_vsock(&config, bad[i], &err) == -EINVAL, "%s", bad[i]);
    ck_assert_int_eq(overlay("{\"vsock\": {\"cid\": 3}}"), -EINVAL);
    ck_assert_int_eq(overlay("{\"vsock\": {\"cid\": 1, \"socket\": \"/a\"}}"), -EINVAL);
}
END_TEST

START_TEST(places_are_kept)
{
    uint8_t mac[6], other[6];
    ck_assert_int_eq(
        overlay("{\"disks\": [{\"path\": \"/a\"}, {\"path\": \"/b\", \"id\": \"disk7\", "
                "\"slot\": 9}, {\"path\": \"/c\"}]}"),
        0);
    ck_assert_uint_eq(config.disks[0].number, 0);
    ck_assert_uint_eq(config.disks[1].number, 7);
    ck_assert_uint_eq(config.disks[1].slot, 9);
    ck_assert_uint_eq(config.disks[2].number, 1);
    machine_config_remove_disk(&config, 0);
    ck_assert_uint_eq(config.disk_count, 2);
    ck_assert_str_eq(config.disks[0].path, "/b");
    ck_assert_int_eq(machine_config_add_disk(&config, "/d", &err), 0);
    ck_assert_uint_eq(config.disks[2].number, 0); // the lowest that is free
    json_t *json = machine_config_disk_json(&config, 0);
    ck_assert_str_eq(json_string_value(json_object_get(json, "id")), "disk7");
    ck_assert_int_eq(json_integer_value(json_object_get(json, "slot")), 9);
    json_decref(json);
    // An address goes with the number, not with the place in the list.
    machine_config_add_net(&config, "tap=a", &err);
    machine_config_add_net(&config, "tap=b", &err);
    net_mac_derive(config.name, 1, mac);
    machine_config_remove_net(&config, 0);
    net_mac_derive(config.name, config.nets[0].number, other);
    ck_assert_mem_eq(mac, other, 6);
    static const char *const bad[] = {
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"disk\"}]}",
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"net0\"}]}",
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"disk100\"}]}",
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"disk-1\"}]}",
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"disk1x\"}]}",
        "{\"disks\": [{\"path\": \"/a\", \"slot\": 32}]}",
        "{\"disks\": [{\"path\": \"/a\", \"id\": \"disk1\"}, {\"path\": \"/b\", \"id\": "
        "\"disk1\"}]}",
        "{\"nets\": [{\"kind\": \"tap\", \"interface\": \"a\", \"id\": \"disk0\"}]}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(overlay(bad[i]) == -EINVAL, "%s", bad[i]);
}
END_TEST

START_TEST(too_many_disks_in_json)
{
    json_t *disks = json_array();
    for (int i = 0; i <= MACHINE_DISKS_LIMIT; i++)
        json_array_append_new(disks, json_pack("{s:s}", "path", "/x"));
    json_t *object = json_pack("{s:o}", "disks", disks);
    ck_assert_int_eq(machine_config_from_json(&config, object, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "more than 16 disks"));
    json_decref(object);
}
END_TEST

static const struct {
    const char *text, *path;
    bool read_only;
} disks[] = {
    {"/a", "/a", false},
    {"/a,ro", "/a", true},
    {"/a,,b", "/a,b", false},
    {"/a,,ro", "/a,ro", false},
    {"/a,,,ro", "/a,", true},
    {",,", ",", false},
    {"/a,cache=none", "/a", false},
    {"/a,cache=unsafe,ro", "/a", true},
};

START_TEST(disk_options)
{
    ck_assert_int_eq(machine_config_add_disk(&config, disks[_i].text, &err), 0);
    ck_assert_str_eq(config.disks[0].path, disks[_i].path);
    ck_assert_int_eq(config.disks[0].read_only, disks[_i].read_only);
}
END_TEST

static const char *const bad_disks[] = {"",
                                        ",ro",
                                        "/a,rw",
                                        "/a,",
                                        "/a,ro,x",
                                        "/a,ros",
                                        "/a,cache=",
                                        "/a,cache=x",
                                        "/a,cache=noneno",
                                        "/a,iops=x",
                                        "/a,iops=",
                                        "/a,bps=fast",
                                        "/a,burst=1us",
                                        "/a,burst=2h",
                                        "/a,iops=-1"};

START_TEST(limits_of_disks_and_networks)
{
    ck_assert_int_eq(machine_config_add_disk(&config, "/a,bps=2M,iops=500,burst=250ms,ro", &err),
                     0);
    ck_assert_int_eq(machine_config_add_disk(&config, "/b", &err), 0);
    ck_assert_int_eq(machine_config_add_net(&config, "tap=t0,iops=7,queues=2,bps=0", &err), 0);
    ck_assert_uint_eq(config.nets[0].limits.operations_per_second, 7);
    ck_assert_uint_eq(config.nets[0].queues, 2);
    json_t *json = machine_config_to_json(&config);
    struct machine_config copy;
    ck_assert_int_eq(machine_config_init(&copy), 0);
    ck_assert_msg(machine_config_from_json(&copy, json, &err) == 0, "%s", err.message);
    ck_assert_uint_eq(copy.disks[0].limits.bytes_per_second, 2 << 20);
    ck_assert_uint_eq(copy.disks[0].limits.operations_per_second, 500);
    ck_assert_uint_eq(copy.disks[0].limits.burst_ns, 250000000);
    ck_assert(copy.disks[0].read_only);
    ck_assert_uint_eq(copy.disks[1].limits.bytes_per_second, 0);
    ck_assert_uint_eq(copy.nets[0].limits.operations_per_second, 7);
    machine_config_free(&copy);
    json_decref(json);
    static const char *const bad[] = {
        "{\"disks\": [{\"path\": \"/a\", \"limits\": 5}]}",
        "{\"disks\": [{\"path\": \"/a\", \"limits\": {\"bps\": 5}}]}",
        "{\"disks\": [{\"path\": \"/a\", \"limits\": {\"bytes_per_second\": -5}}]}",
        "{\"disks\": [{\"path\": \"/a\", \"limits\": {\"burst_ns\": 999}}]}",
        "{\"nets\": [{\"kind\": \"tap\", \"interface\": \"t\", \"limits\": []}]}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(overlay(bad[i]) == -EINVAL, "%s", bad[i]);
}
END_TEST

START_TEST(bad_disk_options)
{
    ck_assert_int_eq(machine_config_add_disk(&config, bad_disks[_i], &err), -EINVAL);
    ck_assert_uint_eq(config.disk_count, 0);
}
END_TEST

START_TEST(net_options)
{
    static const uint8_t mac[6] = {2, 0, 0, 0xab, 0xCD, 1};
    ck_assert_int_eq(machine_config_add_net(&config, "tap=t0,mac=02:00:00:ab:CD:01", &err), 0);
    ck_assert_int_eq(machine_config_add_net(&config, "tap=t1,queues=2", &err), 0);
    ck_assert_int_eq(config.nets[0].kind, NET_TAP);
    ck_assert_str_eq(config.nets[0].interface, "t0");
    ck_assert_mem_eq(config.nets[0].mac, mac, 6);
    ck_assert_str_eq(config.nets[1].interface, "t1");
    ck_assert_uint_eq(config.nets[1].queues, 2);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
}
END_TEST

static const char *const bad_nets[] = {
    "",
    "users",
    "user=x",
    "user,tcp=",
    "user,tcp=80;rm",
    "user,queues=2",
    "socket=",
    "socket",
    "socket=x,listen=1",
    "socket=x,tcp=1",
    "tap=a,tcp=1",
    "none,mac=02:00:00:00:00:01",
    "tap",
    "tap=",
    "tap=,mac=02:00:00:00:00:01",
    "tap=a,mac=",
    "tap=a,mac=02:00:00:00:00",
    "tap=a,mac=02:00:00:00:00:0g",
    "tap=a,mac=01:00:00:00:00:01",
    "tap=a,mac=00:00:00:00:00:00",
    "tap=a,mac=02:00:00:00:00:011",
    "tap=a,x=1",
    "tap=a,queues=0",
    "tap=a,queues=9",
    "tap=a,queues=2x",
    "tap=a,mac= 2:00:00:00:00:01",
    "none,x",
};

START_TEST(bad_net_options)
{
    ck_assert_int_eq(machine_config_add_net(&config, bad_nets[_i], &err), -EINVAL);
    ck_assert_uint_eq(config.net_count, 0);
}
END_TEST

static void expect_refusal(const char *part)
{
    err = (struct error){0};
    ck_assert_int_eq(machine_config_check(&config, &err), -EINVAL);
    ck_assert_msg(strstr(err.message, part) != NULL, "said '%s', not '%s'", err.message, part);
}

START_TEST(check_numbers)
{
    config.cpus = 65;
    expect_refusal("65 CPUs");
    config.cpus = 64;
    config.memory = (16 << 20) - 4096;
    expect_refusal("16 MiB to 64 TiB");
    config.memory = (16 << 20) + 1;
    expect_refusal("whole pages");
    config.memory = (UINT64_C(1) << 46) + 4096;
    expect_refusal("64 TiB");
    config.memory = UINT64_C(1) << 46;
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
}
END_TEST

START_TEST(check_texts)
{
    free(config.kernel);
    config.kernel = NULL;
    expect_refusal("--kernel");
    config.kernel = strdup("k");
    free(config.append);
    config.append = malloc(65537);
    memset(config.append, 'x', 65536);
    config.append[65536] = 0;
    expect_refusal("command line is longer");
    config.append[65535] = 0;
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
    strcpy(config.name, "");
    expect_refusal("not a machine name");
}
END_TEST

START_TEST(check_duplicates)
{
    machine_config_add_disk(&config, "/a,ro", &err);
    machine_config_add_disk(&config, "/a,ro", &err);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
    machine_config_add_disk(&config, "/a", &err);
    expect_refusal("given twice");
    overlay("{\"disks\": []}");
    machine_config_add_net(&config, "tap=a", &err);
    machine_config_add_net(&config, "tap=a", &err);
    expect_refusal("tap 'a' is given twice");
    overlay("{\"nets\": []}");
    machine_config_add_net(&config, "tap=a,mac=02:00:00:00:00:01", &err);
    machine_config_add_net(&config, "tap=b,mac=02:00:00:00:00:01", &err);
    expect_refusal("the same address");
    overlay("{\"nets\": []}");
    machine_config_add_net(&config, "none", &err);
    ck_assert_int_eq(machine_config_check(&config, &err), 0);
    machine_config_add_net(&config, "tap=b", &err);
    expect_refusal("stands alone");
    overlay("{\"nets\": []}");
    machine_config_add_net(&config, "tap=an-interface-with-a-long-name", &err);
    expect_refusal("not the name of a network interface");
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, json_round_trip);
    tcase_add_test(tests, overlay_keeps_the_rest);
    tcase_add_loop_test(tests, json_is_strict, 0, COUNT(refused));
    tcase_add_test(tests, nets_without_taps);
    tcase_add_test(tests, vsock_option);
    tcase_add_test(tests, places_are_kept);
    tcase_add_test(tests, too_many_disks_in_json);
    tcase_add_test(tests, limits_of_disks_and_networks);
    tcase_add_loop_test(tests, disk_options, 0, COUNT(disks));
    tcase_add_loop_test(tests, bad_disk_options, 0, COUNT(bad_disks));
    tcase_add_test(tests, net_options);
    tcase_add_loop_test(tests, bad_net_options, 0, COUNT(bad_nets));
    tcase_add_test(tests, check_numbers);
    tcase_add_test(tests, check_texts);
    tcase_add_test(tests, check_duplicates);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
