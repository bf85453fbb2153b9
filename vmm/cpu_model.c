#include "vmm/cpu_model.h"

#include <string.h>

#define LEAF1_ECX(name, bit, level)                                                                \
    {                                                                                              \
        name, 1, 0, CPUID_ECX, bit, level                                                          \
    }
#define LEAF1_EDX(name, bit, level)                                                                \
    {                                                                                              \
        name, 1, 0, CPUID_EDX, bit, level                                                          \
    }
#define LEAF7_EBX(name, bit, level)                                                                \
    {                                                                                              \
        name, 7, 0, CPUID_EBX, bit, level                                                          \
    }
#define LEAF7_ECX(name, bit, level)                                                                \
    {                                                                                              \
        name, 7, 0, CPUID_ECX, bit, level                                                          \
    }
#define LEAF7_EDX(name, bit, level)                                                                \
    {                                                                                              \
        name, 7, 0, CPUID_EDX, bit, level                                                          \
    }
#define LEAF71_EAX(name, bit, level)                                                               \
    {                                                                                              \
        name, 7, 1, CPUID_EAX, bit, level                                                          \
    }
#define LEAFD1_EAX(name, bit, level)                                                               \
    {                                                                                              \
        name, 0xd, 1, CPUID_EAX, bit, level                                                        \
    }
#define EXT1_ECX(name, bit, level)                                                                 \
    {                                                                                              \
        name, 0x80000001, 0, CPUID_ECX, bit, level                                                 \
    }
#define EXT1_EDX(name, bit, level)                                                                 \
    {                                                                                              \
        name, 0x80000001, 0, CPUID_EDX, bit, level                                                 \
    }
#define EXT8_EBX(name, bit, level)                                                                 \
    {                                                                                              \
        name, 0x80000008, 0, CPUID_EBX, bit, level                                                 \
    }

// Names as Linux prints them in /proc/cpuinfo (sse3 is pni there, lzcnt is abm: both are taken).
const struct cpu_feature cpu_features[] = {
    LEAF1_EDX("fpu", 0, 1),
    LEAF1_EDX("vme", 1, 1),
    LEAF1_EDX("de", 2, 1),
    LEAF1_EDX("pse", 3, 1),
    LEAF1_EDX("tsc", 4, 1),
    LEAF1_EDX("msr", 5, 1),
    LEAF1_EDX("pae", 6, 1),
    LEAF1_EDX("mce", 7, 1),
    LEAF1_EDX("cx8", 8, 1),
    LEAF1_EDX("apic", 9, 1),
    LEAF1_EDX("sep", 11, 1),
    LEAF1_EDX("mtrr", 12, 1),
    LEAF1_EDX("pge", 13, 1),
    LEAF1_EDX("mca", 14, 1),
    LEAF1_EDX("cmov", 15, 1),
    LEAF1_EDX("pat", 16, 1),
    LEAF1_EDX("pse36", 17, 1),
    LEAF1_EDX("clflush", 19, 1),
    LEAF1_EDX("mmx", 23, 1),
    LEAF1_EDX("fxsr", 24, 1),
    LEAF1_EDX("sse", 25, 1),
    LEAF1_EDX("sse2", 26, 1),
    LEAF1_EDX("ss", 27, 0),
    LEAF1_EDX("ht", 28, 1),

    LEAF1_ECX("pni", 0, 2),
    LEAF1_ECX("sse3", 0, 2),
    LEAF1_ECX("pclmulqdq", 1, 0),
    LEAF1_ECX("ssse3", 9, 2),
    LEAF1_ECX("fma", 12, 3),
    LEAF1_ECX("cx16", 13, 2),
    LEAF1_ECX("pcid", 17, 0),
    LEAF1_ECX("sse4_1", 19, 2),
    LEAF1_ECX("sse4_2", 20, 2),
    LEAF1_ECX("x2apic", 21, 1),
    LEAF1_ECX("movbe", 22, 3),
    LEAF1_ECX("popcnt", 23, 2),
    LEAF1_ECX("tsc_deadline_timer", 24, 1),
    LEAF1_ECX("aes", 25, 0),
    LEAF1_ECX("xsave", 26, 3),
    LEAF1_ECX("avx", 28, 3),
    LEAF1_ECX("f16c", 29, 3),
    LEAF1_ECX("rdrand", 30, 0),
    LEAF1_ECX("hypervisor", 31, 1),

    LEAF7_EBX("fsgsbase", 0, 0),
    LEAF7_EBX("tsc_adjust", 1, 0),
    LEAF7_EBX("bmi1", 3, 3),
    LEAF7_EBX("avx2", 5, 3),
    LEAF7_EBX("smep", 7, 0),
    LEAF7_EBX("bmi2", 8, 3),
    LEAF7_EBX("erms", 9, 0),
    LEAF7_EBX("invpcid", 10, 0),
    LEAF7_EBX("avx512f", 16, 4),
    LEAF7_EBX("avx512dq", 17, 4),
    LEAF7_EBX("rdseed", 18, 0),
    LEAF7_EBX("adx", 19, 0),
    LEAF7_EBX("smap", 20, 0),
    LEAF7_EBX("avx512ifma", 21, 0),
    LEAF7_EBX("clflushopt", 23, 0),
    LEAF7_EBX("clwb", 24, 0),
    LEAF7_EBX("avx512cd", 28, 4),
    LEAF7_EBX("sha_ni", 29, 0),
    LEAF7_EBX("avx512bw", 30, 4),
    LEAF7_EBX("avx512vl", 31, 4),

    LEAF7_ECX("avx512vbmi", 1, 0),
    LEAF7_ECX("umip", 2, 0),
    LEAF7_ECX("pku", 3, 0),
    LEAF7_ECX("avx512_vbmi2", 6, 0),
    LEAF7_ECX("gfni", 8, 0),
    LEAF7_ECX("vaes", 9, 0),
    LEAF7_ECX("vpclmulqdq", 10, 0),
    LEAF7_ECX("avx512_vnni", 11, 0),
    LEAF7_ECX("avx512_bitalg", 12, 0),
    LEAF7_ECX("avx512_vpopcntdq", 14, 0),
    LEAF7_ECX("la57", 16, 0),
    LEAF7_ECX("rdpid", 22, 0),
    LEAF7_ECX("cldemote", 25, 0),
    LEAF7_ECX("movdiri", 27, 0),
    LEAF7_ECX("movdir64b", 28, 0),

    LEAF7_EDX("fsrm", 4, 0),
    LEAF7_EDX("avx512_vp2intersect", 8, 0),
    LEAF7_EDX("md_clear", 10, 0),
    LEAF7_EDX("serialize", 14, 0),
    LEAF7_EDX("avx512_fp16", 23, 0),
    LEAF7_EDX("spec_ctrl", 26, 0),
    LEAF7_EDX("stibp", 27, 0),
    LEAF7_EDX("flush_l1d", 28, 0),
    LEAF7_EDX("arch_capabilities", 29, 0),
    LEAF7_EDX("ssbd", 31, 0),

    LEAF71_EAX("avx_vnni", 4, 0),
    LEAF71_EAX("avx512_bf16", 5, 0),
    LEAF71_EAX("fzrm", 10, 0),
    LEAF71_EAX("fsrs", 11, 0),
    LEAF71_EAX("fsrc", 12, 0),

    LEAFD1_EAX("xsaveopt", 0, 3),
    LEAFD1_EAX("xsavec", 1, 3),
    LEAFD1_EAX("xgetbv1", 2, 3),
    LEAFD1_EAX("xsaves", 3, 0),

    EXT1_EDX("syscall", 11, 1),
    EXT1_EDX("nx", 20, 1),
    EXT1_EDX("mmxext", 22, 0),
    EXT1_EDX("fxsr_opt", 25, 0),
    EXT1_EDX("pdpe1gb", 26, 0),
    EXT1_EDX("rdtscp", 27, 0),
    EXT1_EDX("lm", 29, 1),
    EXT1_EDX("3dnowext", 30, 0),
    EXT1_EDX("3dnow", 31, 0),

    EXT1_ECX("lahf_lm", 0, 2),
    EXT1_ECX("cr8_legacy", 4, 0),
    EXT1_ECX("abm", 5, 3),
    EXT1_ECX("lzcnt", 5, 3),
    EXT1_ECX("sse4a", 6, 0),
    EXT1_ECX("misalignsse", 7, 0),
    EXT1_ECX("3dnowprefetch", 8, 0),
    EXT1_ECX("osvw", 9, 0),
    EXT1_ECX("xop", 11, 0),
    EXT1_ECX("fma4", 16, 0),
    EXT1_ECX("tbm", 21, 0),
    EXT1_ECX("topoext", 22, 0),

    EXT8_EBX("clzero", 0, 0),
    EXT8_EBX("xsaveerptr", 2, 0),
    EXT8_EBX("wbnoinvd", 9, 0),
    EXT8_EBX("amd_ibpb", 12, 0),
    EXT8_EBX("amd_ibrs", 14, 0),
    EXT8_EBX("amd_stibp", 15, 0),
    EXT8_EBX("amd_ssbd", 24, 0),
    EXT8_EBX("virt_ssbd", 25, 0),
    {0},
};

static const struct cpu_feature *find_feature(const char *name, size_t length)
{
    for (const struct cpu_feature *f = cpu_features; f->name; f++)
        if (strlen(f->name) == length && memcmp(f->name, name, length) == 0)
            return f;
    return NULL;
}

static int parse_level(const char *name, size_t length, uint8_t *level)
{
    static const struct {
        const char *name;
        uint8_t level;
    } models[] = {
        {"host", CPU_MODEL_HOST_LEVEL},
        {"x86-64-v2", 2},
        {"x86-64-v3", 3},
        {"x86-64-v4", 4},
    };
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        if (strlen(models[i].name) == length && memcmp(models[i].name, name, length) == 0) {
            *level = models[i].level;
            return 0;
        }
    }
    return -EINVAL;
}

int cpu_model_parse(const char *text, struct cpu_model *model, struct error *err)
{
    *model = (struct cpu_model){0};
    size_t length = strcspn(text, ",");
    if (parse_level(text, length, &model->level) < 0)
        return error_set(err, EINVAL,
                         "CPU model '%.*s': unknown (host, x86-64-v2, x86-64-v3, x86-64-v4)",
                         (int)length, text);
    text += length;
    while (*text == ',') {
        char sign = *++text;
        if (sign != '+' && sign != '-')
            return error_set(err, EINVAL, "CPU model: '%s': write +FEATURE or -FEATURE", text);
        length = strcspn(++text, ",");
        const struct cpu_feature *feature = find_feature(text, length);
        if (!feature)
            return error_set(
                err, EINVAL,
                "CPU model: feature '%.*s': unknown (names are those of /proc/cpuinfo)",
                (int)length, text);
        if (model->change_count == CPU_MODEL_CHANGES_LIMIT)
            return error_set(err, EINVAL, "CPU model: more than %d features named",
                             CPU_MODEL_CHANGES_LIMIT);
        model->changes[model->change_count].feature = feature;
        model->changes[model->change_count++].on = sign == '+';
        text += length;
    }
    return 0;
}
