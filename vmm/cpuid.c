#include "vmm/cpuid.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
    LEAF_FEATURES = 1,
    LEAF_CACHES = 4,
    LEAF_EXTENDED_FEATURES = 7,
    LEAF_PMU = 0xa,
    LEAF_TOPOLOGY = 0xb,
    LEAF_XSAVE = 0xd,
    LEAF_SGX = 0x12,
    LEAF_PROCESSOR_TRACE = 0x14,
    LEAF_AMX_TILES = 0x1d,
    LEAF_AMX_MULTIPLY = 0x1e,
    LEAF_TOPOLOGY_V2 = 0x1f,
};
#define LEAF_KVM            UINT32_C(0x40000000)
#define LEAF_KVM_FEATURES   UINT32_C(0x40000001)
#define LEAF_AMD_FEATURES   UINT32_C(0x80000001)
#define LEAF_AMD_POWER      UINT32_C(0x80000007)
#define LEAF_AMD_SIZES      UINT32_C(0x80000008)
#define LEAF_AMD_SVM        UINT32_C(0x8000000a)
#define LEAF_AMD_IBS        UINT32_C(0x8000001b)
#define LEAF_AMD_CACHES     UINT32_C(0x8000001d)
#define LEAF_AMD_TOPOLOGY   UINT32_C(0x8000001e)
#define LEAF_AMD_ENCRYPTION UINT32_C(0x8000001f)
#define LEAF_AMD_PMU        UINT32_C(0x80000022)

#define BIT(n) (UINT32_C(1) << (n))

// State components of XSAVE (SDM vol. 1, 13.1).
#define XSTATE_LEGACY UINT64_C(0x3)
#define XSTATE_AVX    UINT64_C(0x4)
#define XSTATE_AVX512 UINT64_C(0xe0)
#define XSTATE_AMX    UINT64_C(0x60000)

int cpuid_get_supported(const struct kvm *kvm, struct cpuid_table *table, struct error *err)
{
    struct kvm_cpuid2 *raw = calloc(1, sizeof(*raw) + sizeof(table->entries));
    if (!raw)
        return error_set_errno(err, ENOMEM, "asking KVM for its CPUID");
    raw->nent = CPUID_ENTRIES_LIMIT;
    int rc = 0;
    if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, raw) < 0) {
        rc = error_set_errno(err, errno, "asking KVM for its CPUID");
    } else {
        table->count = raw->nent;
        memcpy(table->entries, raw->entries, raw->nent * sizeof(raw->entries[0]));
    }
    free(raw);
    return rc;
}

static struct kvm_cpuid_entry2 *find(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct kvm_cpuid_entry2 *e = &table->entries[i];
        if (e->function == leaf &&
            (e->index == subleaf || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return e;
    }
    return NULL;
}

// The entry, made when it isn't there; NULL when the table is full.
static struct kvm_cpuid_entry2 *find_or_add(struct cpuid_table *table, uint32_t leaf,
                                            uint32_t subleaf, uint32_t flags)
{
    struct kvm_cpuid_entry2 *e = find(table, leaf, subleaf);
    if (e)
        return e;
    if (table->count == CPUID_ENTRIES_LIMIT)
        return NULL;
    e = &table->entries[table->count++];
    *e = (struct kvm_cpuid_entry2){.function = leaf, .index = subleaf, .flags = flags};
    return e;
}

static void remove_leaf(struct cpuid_table *table, uint32_t leaf)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entries[i].function != leaf)
            table->entries[kept++] = table->entries[i];
    table->count = kept;
}

static uint32_t *register_of(struct kvm_cpuid_entry2 *e, enum cpuid_register reg)
{
    switch (reg) {
    case CPUID_EAX:
        return &e->eax;
    case CPUID_EBX:
        return &e->ebx;
    case CPUID_ECX:
        return &e->ecx;
    case CPUID_EDX:
        return &e->edx;
    }
    return NULL;
}

static bool has_feature(struct cpuid_table *table, const struct cpu_feature *f)
{
    struct kvm_cpuid_entry2 *e = find(table, f->leaf, f->subleaf);
    return e && (*register_of(e, f->reg) & BIT(f->bit));
}

static void set_feature(struct cpuid_table *table, const struct cpu_feature *f, bool on)
{
    struct kvm_cpuid_entry2 *e = find(table, f->leaf, f->subleaf);
    if (!e)
        return;
    if (on)
        *register_of(e, f->reg) |= BIT(f->bit);
    else
        *register_of(e, f->reg) &= ~BIT(f->bit);
}

// Bits and leaves that no machine has.
static void drop_never(struct cpuid_table *t)
{
    static const struct {
        uint32_t leaf, subleaf;
        enum cpuid_register reg;
        uint32_t bits;
    } never[] = {
        {LEAF_FEATURES, 0, CPUID_ECX, BIT(2) | BIT(5) | BIT(6) | BIT(15)},   // DTES64 VMX SMX PDCM
        {LEAF_EXTENDED_FEATURES, 0, CPUID_EBX, BIT(2) | BIT(25)},            // SGX, processor trace
        {LEAF_EXTENDED_FEATURES, 0, CPUID_ECX, BIT(5) | BIT(30) | BIT(31)},  // WAITPKG SGX_LC PKS
        {LEAF_EXTENDED_FEATURES, 0, CPUID_EDX, BIT(22) | BIT(24) | BIT(25)}, // AMX
        {LEAF_EXTENDED_FEATURES, 1, CPUID_EAX, BIT(21)},                     // AMX_FP16
        {LEAF_XSAVE, 0, CPUID_EAX, (uint32_t)XSTATE_AMX},
        {LEAF_AMD_FEATURES, 0, CPUID_ECX, // SVM, SKINIT, IBS, performance counters
         BIT(2) | BIT(10) | BIT(12) | BIT(23) | BIT(24) | BIT(28)},
    };
    static const uint32_t leaves[] = {LEAF_PMU,       LEAF_SGX,          LEAF_PROCESSOR_TRACE,
                                      LEAF_AMX_TILES, LEAF_AMX_MULTIPLY, LEAF_TOPOLOGY_V2,
                                      LEAF_AMD_SVM,   LEAF_AMD_IBS,      LEAF_AMD_ENCRYPTION,
                                      LEAF_AMD_PMU};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        struct kvm_cpuid_entry2 *e = find(t, never[i].leaf, never[i].subleaf);
        if (e)
            *register_of(e, never[i].reg) &= ~never[i].bits;
    }
    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
        remove_leaf(t, leaves[i]);
}

// The words of CPUID that are lists of features.
static const struct {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
} feature_words[] = {
    {LEAF_FEATURES, 0, CPUID_ECX},
    {LEAF_FEATURES, 0, CPUID_EDX},
    {LEAF_EXTENDED_FEATURES, 0, CPUID_EBX},
    {LEAF_EXTENDED_FEATURES, 0, CPUID_ECX},
    {LEAF_EXTENDED_FEATURES, 0, CPUID_EDX},
    {LEAF_EXTENDED_FEATURES, 1, CPUID_EAX},
    {LEAF_EXTENDED_FEATURES, 1, CPUID_EBX},
    {LEAF_EXTENDED_FEATURES, 1, CPUID_EDX},
    {LEAF_EXTENDED_FEATURES, 2, CPUID_EDX},
    {LEAF_XSAVE, 1, CPUID_EAX},
    {LEAF_AMD_FEATURES, 0, CPUID_ECX},
    {LEAF_AMD_FEATURES, 0, CPUID_EDX},
    {LEAF_AMD_POWER, 0, CPUID_EDX},
    {LEAF_AMD_SIZES, 0, CPUID_EBX},
    {0x80000021, 0, CPUID_EAX},
};

enum { FEATURE_WORDS = sizeof(feature_words) / sizeof(feature_words[0]) };

// Keeps of the feature leaves only what a level has; the level's own features must be there.
static int apply_level(struct cpuid_table *t, uint8_t level, struct error *err)
{
    for (const struct cpu_feature *f = cpu_features; f->name; f++) {
        // Level 1 also lists what is good to have everywhere; only the real levels are demanded.
        if (f->level > 1 && f->level <= level && f->leaf != LEAF_XSAVE && !has_feature(t, f))
            return error_set(
                err, ENOTSUP,
                "CPU model x86-64-v%u needs the feature '%s', which this host's KVM lacks", level,
                f->name);
    }
    for (size_t i = 0; i < FEATURE_WORDS; i++) {
        struct kvm_cpuid_entry2 *e = find(t, feature_words[i].leaf, feature_words[i].subleaf);
        if (!e)
            continue;
        uint32_t kept = 0;
        for (const struct cpu_feature *f = cpu_features; f->name; f++)
            if (f->level && f->level <= level && f->leaf == feature_words[i].leaf &&
                f->subleaf == feature_words[i].subleaf && f->reg == feature_words[i].reg)
                kept |= BIT(f->bit);
        *register_of(e, feature_words[i].reg) &= kept;
    }
    // One family, model and stepping for all hosts of a vendor: a generic 64-bit CPU.
    struct kvm_cpuid_entry2 *features = find(t, LEAF_FEATURES, 0);
    if (features)
        features->eax = 0x00060fb1;
    struct kvm_cpuid_entry2 *amd = find(t, LEAF_AMD_FEATURES, 0);
    if (amd && amd->eax)
        amd->eax = 0x00060fb1;
    return 0;
}

static int apply_changes(struct cpuid_table *t, struct cpuid_table *allowed,
                         const struct cpu_model *model, struct error *err)
{
    for (unsigned i = 0; i < model->change_count; i++) {
        const struct cpu_feature *f = model->changes[i].feature;
        if (model->changes[i].on && !has_feature(allowed, f))
            return error_set(err, ENOTSUP,
                             "CPU model: feature '+%s' isn't supported by this host's KVM",
                             f->name);
        set_feature(t, f, model->changes[i].on);
    }
    return 0;
}

static bool leaf_bit(struct cpuid_table *t, uint32_t leaf, enum cpuid_register reg, unsigned bit)
{
    struct kvm_cpuid_entry2 *e = find(t, leaf, 0);
    return e && (*register_of(e, reg) & BIT(bit));
}

// XSAVE's leaf follows the features: components nobody can use are not offered, and the size of the
// largest area fits what is left (the sizes of the current XCR0 are KVM's to fill in).
static void fix_xsave(struct cpuid_table *t)
{
    struct kvm_cpuid_entry2 *main = find(t, LEAF_XSAVE, 0);
    if (!main)
        return;
    if (!leaf_bit(t, LEAF_FEATURES, CPUID_ECX, 26)) {
        remove_leaf(t, LEAF_XSAVE);
        return;
    }
    uint64_t components = main->eax | (uint64_t)main->edx << 32;
    if (!leaf_bit(t, LEAF_FEATURES, CPUID_ECX, 28))
        components &= ~(XSTATE_AVX | XSTATE_AVX512);
    if (!leaf_bit(t, LEAF_EXTENDED_FEATURES, CPUID_EBX, 16))
        components &= ~XSTATE_AVX512;
    if (!leaf_bit(t, LEAF_EXTENDED_FEATURES, CPUID_ECX, 3))
        components &= ~(UINT64_C(1) << 9); // PKRU
    main->eax = (uint32_t)components;
    main->edx = (uint32_t)(components >> 32);
    uint32_t size = 576; // legacy area and header (SDM vol. 1, 13.4)
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        struct kvm_cpuid_entry2 e = t->entries[i];
        if (e.function == LEAF_XSAVE && e.index > 1) {
            if (e.index > 62 || !(components >> e.index & 1))
                continue;
            if (e.ebx + e.eax > size)
                size = e.ebx + e.eax;
        }
        if (e.function == LEAF_XSAVE && e.index == 1)
            e.ecx = e.edx = 0; // no supervisor components
        t->entries[kept++] = e;
    }
    t->count = kept;
    main = find(t, LEAF_XSAVE, 0); // it may have moved
    main->ebx = main->ecx = size;
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while ((1u << bits) < count)
        bits++;
    return bits;
}

static int set_topology(struct cpuid_table *t, unsigned cpus, struct error *err)
{
    unsigned bits = bits_for(cpus);
    struct kvm_cpuid_entry2 *e = find(t, LEAF_FEATURES, 0);
    if (!e)
        return error_set(err, ENOTSUP, "this host's KVM reports no CPUID leaf 1");
    e->ebx = (e->ebx & 0x0000ffff) | (cpus < 255 ? cpus : 255) << 16;
    if (cpus == 1)
        e->edx &= ~BIT(28);
    else
        e->edx |= BIT(28);

    remove_leaf(t, LEAF_TOPOLOGY);
    struct kvm_cpuid_entry2 *thread =
        find_or_add(t, LEAF_TOPOLOGY, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    struct kvm_cpuid_entry2 *core =
        find_or_add(t, LEAF_TOPOLOGY, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    if (!thread || !core)
        return error_set(err, ENOSPC, "the CPUID table is full");
    thread->eax = 0;
    thread->ebx = 1;
    thread->ecx = 1 << 8; // level type: thread
    core->eax = bits;
    core->ebx = cpus;
    core->ecx = 2 << 8 | 1; // level type: core

    for (uint32_t i = 0; i < t->count; i++) {
        e = &t->entries[i];
        unsigned kind = e->eax & 0x1f, level = e->eax >> 5 & 7;
        if (kind == 0 || (e->function != LEAF_CACHES && e->function != LEAF_AMD_CACHES))
            continue;
        // The last level is shared by all, the others by nobody.
        unsigned sharing = level >= 3 ? cpus : 1;
        e->eax &= 0x00003fff;
        e->eax |= (sharing - 1) << 14;
        if (e->function == LEAF_CACHES)
            e->eax |= ((1u << bits) - 1) << 26; // addressable cores, minus one
    }
    e = find(t, LEAF_AMD_SIZES, 0);
    if (e)
        e->ecx = (e->ecx & ~UINT32_C(0xf0ff)) | bits << 12 | (cpus - 1);
    e = find(t, LEAF_AMD_TOPOLOGY, 0);
    if (e)
        e->ecx = 0; // node 0, one node a package
    return 0;
}

// The KVM leaves (Linux, Documentation/virt/kvm/x86/cpuid.rst).
static int set_kvm_leaves(struct cpuid_table *t, struct error *err)
{
    struct kvm_cpuid_entry2 *offered = find(t, LEAF_KVM_FEATURES, 0);
    uint32_t features = offered ? offered->eax : 0;
    // What works without a hypercall: those may cost a trap that some hosts can't serve in ring 0.
    static const unsigned wanted[] = {
        0,  // KVM_FEATURE_CLOCKSOURCE
        3,  // KVM_FEATURE_CLOCKSOURCE2
        5,  // KVM_FEATURE_STEAL_TIME
        6,  // KVM_FEATURE_PV_EOI
        24, // KVM_FEATURE_CLOCKSOURCE_STABLE_BIT
    };
    uint32_t mask = 0;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        mask |= BIT(wanted[i]);
    struct kvm_cpuid_entry2 *base = find_or_add(t, LEAF_KVM, 0, 0);
    struct kvm_cpuid_entry2 *leaf = find_or_add(t, LEAF_KVM_FEATURES, 0, 0);
    if (!base || !leaf)
        return error_set(err, ENOSPC, "the CPUID table is full");
    base->eax = LEAF_KVM_FEATURES;
    memcpy(&base->ebx, "KVMK", 4);
    memcpy(&base->ecx, "VMKV", 4);
    memcpy(&base->edx, "M\0\0\0", 4);
    *leaf = (struct kvm_cpuid_entry2){.function = LEAF_KVM_FEATURES, .eax = features & mask};
    return 0;
}

int cpuid_build(const struct cpuid_table *supported, const struct cpu_model *model, unsigned cpus,
                bool tsc_deadline, struct cpuid_table *table, struct error *err)
{
    *table = *supported;
    drop_never(table);
    struct kvm_cpuid_entry2 *features = find(table, LEAF_FEATURES, 0);
    if (features) {
        features->ecx |= BIT(21) | BIT(31); // x2APIC (KVM emulates it), hypervisor
        if (tsc_deadline)
            features->ecx |= BIT(24);
    }
    struct cpuid_table allowed = *table;
    int rc = model->level == CPU_MODEL_HOST_LEVEL ? 0 : apply_level(table, model->level, err);
    if (rc == 0)
        rc = apply_changes(table, &allowed, model, err);
    if (rc == 0)
        rc = set_topology(table, cpus, err);
    if (rc == 0)
        rc = set_kvm_leaves(table, err);
    if (rc == 0)
        fix_xsave(table);
    return rc;
}

// ---- whether a host fits ----

static const char *feature_name(size_t word, unsigned bit)
{
    for (const struct cpu_feature *f = cpu_features; f->name; f++)
        if (f->leaf == feature_words[word].leaf && f->subleaf == feature_words[word].subleaf &&
            f->reg == feature_words[word].reg && f->bit == bit)
            return f->name;
    return NULL;
}

static int check_word(size_t word, uint32_t missing, struct error *err)
{
    static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};
    unsigned bit = (unsigned)__builtin_ctz(missing);
    const char *name = feature_name(word, bit);
    if (name)
        return error_set(err, ENOTSUP,
                         "the machine's CPU has the feature '%s', which this host lacks", name);
    return error_set(err, ENOTSUP,
                     "the machine's CPU has bit %u of CPUID 0x%x.%u %s, which this host lacks", bit,
                     feature_words[word].leaf, feature_words[word].subleaf,
                     registers[feature_words[word].reg]);
}

int cpuid_check(const struct cpuid_table *wanted, const struct cpuid_table *supported,
                bool tsc_deadline, struct error *err)
{
    struct cpuid_table have = *supported, want = *wanted;
    struct kvm_cpuid_entry2 *a = find(&want, 0, 0), *b = find(&have, 0, 0);
    if (!a || !b || a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx)
        return error_set(err, ENOTSUP, "the machine's CPU is of another vendor than this host's");
    struct kvm_cpuid_entry2 *features = find(&have, LEAF_FEATURES, 0);
    if (features) {
        features->ecx |=
            BIT(21) | BIT(27) | BIT(31); // ours to give, and OSXSAVE, which follows CR4
        features->ecx |= tsc_deadline ? BIT(24) : 0;
        features->edx |= BIT(28); // more than one thread in the package
    }
    for (size_t i = 0; i < FEATURE_WORDS; i++) {
        a = find(&want, feature_words[i].leaf, feature_words[i].subleaf);
        b = find(&have, feature_words[i].leaf, feature_words[i].subleaf);
        uint32_t missing = a ? *register_of(a, feature_words[i].reg) : 0;
        if (b)
            missing &= ~*register_of(b, feature_words[i].reg);
        if (missing)
            return check_word(i, missing, err);
    }
    a = find(&want, LEAF_XSAVE, 0);
    b = find(&have, LEAF_XSAVE, 0);
    if (a && (a->eax & ~(b ? b->eax : 0)))
        return error_set(err, ENOTSUP,
                         "the machine's CPU saves state (XSAVE components 0x%x) that "
                         "this host's doesn't have",
                         a->eax & ~(b ? b->eax : 0));
    a = find(&want, LEAF_KVM_FEATURES, 0);
    b = find(&have, LEAF_KVM_FEATURES, 0);
    if (a && (a->eax & ~(b ? b->eax : 0)))
        return error_set(err, ENOTSUP, "the machine uses KVM features (0x%x) that this host lacks",
                         a->eax & ~(b ? b->eax : 0));
    return 0;
}

void cpuid_set_apic_id(struct cpuid_table *table, uint32_t apic_id)
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct kvm_cpuid_entry2 *e = &table->entries[i];
        switch (e->function) {
        case LEAF_FEATURES:
            e->ebx = (e->ebx & 0x00ffffff) | apic_id << 24;
            break;
        case LEAF_TOPOLOGY:
            e->edx = apic_id;
            break;
        case LEAF_AMD_TOPOLOGY:
            e->eax = apic_id;
            e->ebx = apic_id & 0xff; // core id; one thread a core
            break;
        default:
            break;
        }
    }
}
