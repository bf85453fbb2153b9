// CPU models and the CPUID table, on made-up hosts.
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run_suite.h"
#include "vmm/cpuid.h"

static void add(struct cpuid_table *t, uint32_t leaf, uint32_t subleaf, uint32_t flags,
                uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    t->entries[t->count++] = (struct kvm_cpuid_entry2){.function = leaf,
                                                       .index = subleaf,
                                                       .flags = flags,
                                                       .eax = eax,
                                                       .ebx = ebx,
                                                       .ecx = ecx,
                                                       .edx = edx};
}

// A host that says yes to everything, also to what a machine must never have.
static struct cpuid_table *eager_host(void)
{
    struct cpuid_table *t = calloc(1, sizeof(*t));
    const uint32_t indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, all = UINT32_MAX;
    add(t, 0, 0, 0, 0x1f, 0, 0, 0);
    add(t, 1, 0, 0, 0x00a20f10, 0x05040800, all, all);
    add(t, 4, 0, indexed, 0x7c03c121, 0, 0, 0); // level 1 data cache, sharing of another host
    add(t, 4, 1, indexed, 0x7c03c163, 0, 0, 0); // level 3
    add(t, 4, 2, indexed, 0, 0, 0, 0);
    add(t, 7, 0, indexed, 1, all, all, all);
    add(t, 7, 1, indexed, all, 0, 0, 0);
    add(t, 0xa, 0, 0, all, all, all, all);
    add(t, 0xb, 0, indexed, 1, 2, 0x100, 77);
    add(t, 0xd, 0, indexed, 0x602e7, 2696, 11008, 0);
    add(t, 0xd, 1, indexed, 0xf, 0, 0x1800, 0);
    add(t, 0xd, 2, indexed, 256, 576, 0, 0);
    add(t, 0xd, 5, indexed, 64, 832, 0, 0);
    add(t, 0xd, 6, indexed, 512, 896, 0, 0);
    add(t, 0xd, 7, indexed, 1024, 1408, 0, 0);
    add(t, 0xd, 9, indexed, 8, 2432, 0, 0);
    add(t, 0xd, 18, indexed, 8192, 2816, 0, 0); // AMX
    add(t, 0x1d, 0, indexed, all, all, all, all);
    add(t, 0x40000000, 0, 0, 0x40000001, 0, 0, 0);
    add(t, 0x40000001, 0, 0, all, 0, 0, all);
    add(t, 0x80000001, 0, 0, 0x00a20f10, 0, all, all);
    add(t, 0x80000007, 0, 0, 0, 0, 0, all);
    add(t, 0x80000008, 0, 0, 0x3030, all, 0x0000703f, 0);
    add(t, 0x8000000a, 0, 0, 1, 0x8000, 0, all);
    add(t, 0x8000001d, 0, indexed, 0x7c03c121, 0, 0, 0);
    add(t, 0x8000001e, 0, 0, 9, 0x109, 0x300, 0);
    return t;
}

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid_table *t, uint32_t function,
                                           uint32_t index)
{
    for (uint32_t i = 0; i < t->count; i++)
        if (t->entries[i].function == function &&
            (t->entries[i].index == index ||
             !(t->entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return &t->entries[i];
    return NULL;
}

static int build(const struct cpuid_table *host, const char *text, unsigned cpus,
                 struct cpuid_table *out, struct error *err)
{
    struct cpu_model model;
    int rc = cpu_model_parse(text, &model, err);
    return rc < 0 ? rc : cpuid_build(host, &model, cpus, true, out, err);
}

START_TEST(model_text)
{
    static const struct {
        const char *text;
        int rc;
        const char *names; // in the message
    } cases[] = {
        {"host", 0, NULL},
        {"x86-64-v3,-avx2,+aes", 0, NULL},
        {"", -EINVAL, "''"},
        {"x86-64-v5", -EINVAL, "x86-64-v5"},
        {"host,avx", -EINVAL, "avx"},
        {"host,+", -EINVAL, "''"},
        {"host,+svm", -EINVAL, "svm"},
        {"host,+avx,,", -EINVAL, "write"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cpu_model model;
        struct error err = {0};
        ck_assert_msg(cpu_model_parse(cases[i].text, &model, &err) == cases[i].rc, "%s",
                      cases[i].text);
        if (cases[i].names)
            ck_assert_msg(strstr(err.message, cases[i].names) != NULL, "%s", err.message);
    }
}
END_TEST

START_TEST(never_features_are_off)
{
    struct cpuid_table *host = eager_host(), *t = calloc(1, sizeof(*t));
    struct error err = {0};
    ck_assert_int_eq(build(host, "host", 2, t, &err), 0);
    ck_assert_uint_eq(leaf(t, 1, 0)->ecx & (1u << 5), 0);                // VMX
    ck_assert_uint_eq(leaf(t, 0x80000001, 0)->ecx & (1u << 2), 0);       // SVM
    ck_assert_uint_eq(leaf(t, 7, 0)->edx & (7u << 22 & ~(1u << 23)), 0); // AMX
    ck_assert_ptr_null(leaf(t, 0xa, 0));
    ck_assert_ptr_null(leaf(t, 0x1d, 0));
    ck_assert_ptr_null(leaf(t, 0x8000000a, 0));
    ck_assert_ptr_null(leaf(t, 0xd, 18));
    ck_assert_uint_eq(leaf(t, 0xd, 0)->eax, 0x2e7);
    ck_assert_uint_eq(leaf(t, 0xd, 0)->ecx, 2440); // up to PKRU
    // KVM leaf: what needs a hypercall or async page faults is off.
    ck_assert_uint_eq(leaf(t, 0x40000001, 0)->eax,
                      1u << 0 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 24);
    ck_assert_uint_eq(leaf(t, 0x40000000, 0)->ebx, 0x4b4d564b);
    free(host);
    free(t);
}
END_TEST

START_TEST(topology_leaves_agree)
{
    static const unsigned counts[] = {1, 2, 3, 8, 64};
    struct cpuid_table *host = eager_host(), *t = calloc(1, sizeof(*t));
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        unsigned cpus = counts[i], bits = 0;
        struct error err = {0};
        while (1u << bits < cpus)
            bits++;
        ck_assert_int_eq(build(host, "host", cpus, t, &err), 0);
        cpuid_set_apic_id(t, cpus - 1);
        ck_assert_uint_eq(leaf(t, 1, 0)->ebx >> 24, cpus - 1);
        ck_assert_uint_eq(leaf(t, 1, 0)->ebx >> 16 & 0xff, cpus);
        ck_assert_uint_eq(leaf(t, 1, 0)->edx >> 28 & 1, cpus > 1);
        ck_assert_uint_eq(leaf(t, 0xb, 0)->eax, 0);
        ck_assert_uint_eq(leaf(t, 0xb, 1)->eax, bits);
        ck_assert_uint_eq(leaf(t, 0xb, 1)->ebx, cpus);
        ck_assert_uint_eq(leaf(t, 0xb, 1)->edx, cpus - 1);
        ck_assert_uint_eq(leaf(t, 4, 0)->eax >> 14 & 0xfff, 0);        // not shared
        ck_assert_uint_eq(leaf(t, 4, 1)->eax >> 14 & 0xfff, cpus - 1); // by all
        ck_assert_uint_eq(leaf(t, 4, 1)->eax >> 26, (1u << bits) - 1);
        ck_assert_uint_eq(leaf(t, 0x80000008, 0)->ecx & 0xff, cpus - 1);
        ck_assert_uint_eq(leaf(t, 0x80000008, 0)->ecx >> 12 & 0xf, bits);
        ck_assert_uint_eq(leaf(t, 0x8000001e, 0)->eax, cpus - 1);
        ck_assert_uint_eq(leaf(t, 0x8000001e, 0)->ebx, cpus - 1);
    }
    free(host);
    free(t);
}
END_TEST

START_TEST(levels_are_the_same_on_unequal_hosts)
{
    struct cpuid_table *host = eager_host(), *other = eager_host();
    struct cpuid_table *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
    struct error err = {0};
    // The other host is another model, and lacks what v3 doesn't have.
    for (uint32_t i = 0; i < other->count; i++) {
        struct kvm_cpuid_entry2 *e = &other->entries[i];
        if (e->function == 1)
            e->eax = 0x00b40f40;
        if (e->function == 7 && e->index == 0)
            e->ebx &= ~(1u << 16 | 1u << 29); // AVX-512F, SHA
        if (e->function == 0x80000001)
            e->eax = 0x00b40f40;
    }
    ck_assert_int_eq(build(host, "x86-64-v3", 2, a, &err), 0);
    ck_assert_int_eq(build(other, "x86-64-v3", 2, b, &err), 0);
    ck_assert_uint_eq(a->count, b->count);
    ck_assert_int_eq(memcmp(a->entries, b->entries, a->count * sizeof(a->entries[0])), 0);
    ck_assert_uint_eq(leaf(a, 7, 0)->ebx, 1u << 3 | 1u << 5 | 1u << 8); // BMI1 AVX2 BMI2
    ck_assert_uint_eq(leaf(a, 0xd, 0)->eax, 7);
    ck_assert_uint_eq(leaf(a, 0xd, 0)->ecx, 832);
    ck_assert_ptr_null(leaf(a, 0xd, 5));
    ck_assert_int_eq(build(host, "x86-64-v2", 2, a, &err), 0);
    ck_assert_ptr_null(leaf(a, 0xd, 0)); // no XSAVE
    // v4 isn't there, and the sentence says what lacks.
    ck_assert_int_eq(build(other, "x86-64-v4", 2, b, &err), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.message, "avx512f"));
    free(host);
    free(other);
    free(a);
    free(b);
}
END_TEST

START_TEST(changes)
{
    struct cpuid_table *host = eager_host(), *t = calloc(1, sizeof(*t));
    struct error err = {0};
    ck_assert_int_eq(build(host, "host,-avx,-aes", 1, t, &err), 0);
    ck_assert_uint_eq(leaf(t, 1, 0)->ecx >> 28 & 1, 0);
    ck_assert_uint_eq(leaf(t, 1, 0)->ecx >> 25 & 1, 0);
    ck_assert_uint_eq(leaf(t, 0xd, 0)->eax & 0xe4, 0); // no state for what is off
    ck_assert_int_eq(build(host, "x86-64-v2,+aes", 1, t, &err), 0);
    ck_assert_uint_eq(leaf(t, 1, 0)->ecx >> 25 & 1, 1);
    for (uint32_t i = 0; i < host->count; i++)
        if (host->entries[i].function == 1)
            host->entries[i].ecx &= ~(1u << 25);
    ck_assert_int_eq(build(host, "x86-64-v2,+aes", 1, t, &err), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(err.message, "aes"));
    free(host);
    free(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpuid");
    TCase *tests = tcase_create("cpuid");
    tcase_add_test(tests, model_text);
    tcase_add_test(tests, never_features_are_off);
    tcase_add_test(tests, topology_leaves_agree);
    tcase_add_test(tests, levels_are_the_same_on_unequal_hosts);
    tcase_add_test(tests, changes);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
