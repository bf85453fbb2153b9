#include "vmm/sched/cpu_settings.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

enum { CAP_MOST = SCHED_CPUS_LIMIT * 1000 };

const char *const cpu_backend_names[] = {
    [CPU_BACKEND_AUTO] = "auto",
    [CPU_BACKEND_NONE] = "none",
    [CPU_BACKEND_OWN] = "own",
    [CPU_BACKEND_CGROUP2] = "cgroup2",
    [CPU_BACKEND_CGROUP1] = "cgroup1",
    [CPU_BACKEND_SCHED] = "sched",
    NULL,
};

// ---- lists of CPUs ----

int cpu_list_parse(const char *text, struct sched_cpus *cpus)
{
    *cpus = (struct sched_cpus){0};
    for (;;) {
        char *end;
        if (*text < '0' || *text > '9')
            return -EINVAL;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-') {
            text = end + 1;
            if (*text < '0' || *text > '9')
                return -EINVAL;
            last = strtoul(text, &end, 10);
        }
        if (last >= SCHED_CPUS_LIMIT || last < first)
            return -ERANGE;
        for (unsigned long cpu = first; cpu <= last; cpu++)
            sched_cpus_add(cpus, (unsigned)cpu);
        if (!*end)
            return 0;
        if (*end != ',')
            return -EINVAL;
        text = end + 1;
    }
}

char *cpu_list_format(const struct sched_cpus *cpus, char *out, size_t size)
{
    size_t used = 0;
    if (size)
        *out = 0;
    for (unsigned cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        if (!sched_cpus_has(cpus, cpu))
            continue;
        unsigned last = cpu;
        while (last + 1 < SCHED_CPUS_LIMIT && sched_cpus_has(cpus, last + 1))
            last++;
        int n = last > cpu
                    ? snprintf(out + used, size - used, "%s%u-%u", used ? "," : "", cpu, last)
                    : snprintf(out + used, size - used, "%s%u", used ? "," : "", cpu);
        if (n < 0 || (size_t)n >= size - used)
            break;
        used += (size_t)n;
        cpu = last;
    }
    return out;
}

void cpu_list_allowed(struct sched_cpus *cpus)
{
    cpu_set_t set[1024 / CPU_SETSIZE];
    *cpus = (struct sched_cpus){0};
    if (sched_getaffinity(0, sizeof(set), set) != 0) {
        sched_cpus_add(cpus, 0);
        return;
    }
    for (unsigned cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++)
        if (CPU_ISSET_S(cpu, sizeof(set), set))
            sched_cpus_add(cpus, cpu);
}

// ---- values ----

static int parse_weight(struct cpu_setting *setting, const char *text)
{
    uint64_t value;
    if (units_parse_number(text, SCHED_WEIGHT_MOST, &value) != 0 || value < SCHED_WEIGHT_LEAST)
        return -EINVAL;
    setting->weight = (unsigned)value;
    return 0;
}

static int parse_cap(struct cpu_setting *setting, const char *text)
{
    uint32_t value;
    if (units_parse_share(text, &value) != 0 || value < 10 || value > CAP_MOST)
        return -EINVAL;
    setting->cap = value;
    return 0;
}

static int parse_slice(struct cpu_setting *setting, const char *text)
{
    uint64_t value;
    if (units_parse_duration(text, &value) != 0 || value < SCHED_SLICE_LEAST ||
        value > SCHED_SLICE_MOST)
        return -EINVAL;
    setting->slice = value;
    return 0;
}

static int parse_affinity(struct cpu_setting *setting, const char *text)
{
    int rc = cpu_list_parse(text, &setting->affinity);
    setting->has_affinity = rc == 0;
    return rc;
}

static json_t *weight_to_json(const struct cpu_setting *setting)
{
    return setting->weight ? json_integer(setting->weight) : NULL;
}

static json_t *cap_to_json(const struct cpu_setting *setting)
{
    char text[32];
    snprintf(text, sizeof(text), "%g%%", setting->cap / 10.0);
    return setting->cap ? json_string(text) : NULL;
}

static json_t *slice_to_json(const struct cpu_setting *setting)
{
    char text[32];
    snprintf(text, sizeof(text), "%lluus", (unsigned long long)setting->slice / 1000);
    return setting->slice ? json_string(text) : NULL;
}

static json_t *affinity_to_json(const struct cpu_setting *setting)
{
    char text[1024];
    return setting->has_affinity
               ? json_string(cpu_list_format(&setting->affinity, text, sizeof(text)))
               : NULL;
}

static void clear_weight(struct cpu_setting *setting)
{
    setting->weight = 0;
}

static void clear_cap(struct cpu_setting *setting)
{
    setting->cap = 0;
}

static void clear_slice(struct cpu_setting *setting)
{
    setting->slice = 0;
}

static void clear_affinity(struct cpu_setting *setting)
{
    setting->has_affinity = false;
    setting->affinity = (struct sched_cpus){0};
}

static const struct kind {
    const char *key, *wanted;
    int (*parse)(struct cpu_setting *setting, const char *text);
    void (*clear)(struct cpu_setting *setting);
    json_t *(*to_json)(const struct cpu_setting *setting);
} kinds[] = {
    {"weight", "a weight from 1 to 10000", parse_weight, clear_weight, weight_to_json},
    {"cap", "a share of a CPU from 1% to 25600%", parse_cap, clear_cap, cap_to_json},
    {"slice", "a duration from 100us to 100ms", parse_slice, clear_slice, slice_to_json},
    {"affinity", "a list of host CPUs such as 0-1,4 (below 256)", parse_affinity, clear_affinity,
     affinity_to_json},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static const struct kind *find_kind(const char *key)
{
    for (unsigned i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].key, key) == 0)
            return &kinds[i];
    return NULL;
}

static int set_value(struct cpu_setting *setting, const struct kind *kind, const char *text,
                     struct error *err)
{
    if (strcmp(text, "none") == 0) {
        kind->clear(setting);
        return 0;
    }
    if (kind->parse(setting, text) == 0)
        return 0;
    return error_set(err, EINVAL, "'%s' is not %s", text, kind->wanted);
}

int cpu_settings_parse(struct cpu_settings *settings, const char *key, const char *text,
                       struct error *err)
{
    const struct kind *kind = find_kind(key);
    const char *equals = strchr(text, '=');
    if (!equals)
        return set_value(&settings->machine, kind, text, err);
    char number[16];
    uint64_t index;
    if ((size_t)(equals - text) >= sizeof(number))
        return error_set(err, EINVAL, "'%s': not a vCPU's number", text);
    snprintf(number, sizeof(number), "%.*s", (int)(equals - text), text);
    if (units_parse_number(number, CPU_SETTINGS_VCPUS - 1, &index) != 0)
        return error_set(err, EINVAL, "'%s': not a vCPU's number (0 to %d)", number,
                         CPU_SETTINGS_VCPUS - 1);
    return set_value(&settings->vcpu[index], kind, equals + 1, err);
}

int cpu_settings_parse_group(struct cpu_settings *settings, const char *text, struct error *err)
{
    if (!text || strcmp(text, "own") != 0)
        return error_set(err, EINVAL,
                         "'%s' is not a group: 'own' is (vCPUs share a core with no "
                         "other machine's)",
                         text ? text : "");
    settings->core_group = true;
    return 0;
}

// ---- the whole ----

static bool says_anything(const struct cpu_setting *s)
{
    return s->weight || s->cap || s->slice || s->has_affinity;
}

bool cpu_settings_any(const struct cpu_settings *settings)
{
    bool any = says_anything(&settings->machine);
    for (unsigned i = 0; i < CPU_SETTINGS_VCPUS && !any; i++)
        any = says_anything(&settings->vcpu[i]);
    return any;
}

bool cpu_settings_are_default(const struct cpu_settings *settings)
{
    return !cpu_settings_any(settings) && settings->backend == CPU_BACKEND_AUTO &&
           !settings->core_group;
}

int cpu_settings_check(const struct cpu_settings *settings, unsigned cpus, struct error *err)
{
    for (unsigned i = cpus; i < CPU_SETTINGS_VCPUS; i++)
        if (says_anything(&settings->vcpu[i]))
            return error_set(err, EINVAL,
                             "CPU time of vCPU %u: the machine has %u vCPUs, from 0 to %u", i, cpus,
                             cpus - 1);
    if (settings->backend == CPU_BACKEND_NONE && cpu_settings_any(settings))
        return error_set(err, EINVAL,
                         "weight, cap, slice and affinity need a backend that enforces them: "
                         "'none' doesn't (a machine keeps the --cpu-backend it was started with)");
    return 0;
}

struct sched_cap_limits cpu_cap_limits(uint32_t thousandths)
{
    return (struct sched_cap_limits){.quota = CPU_CAP_PERIOD_NS / 1000 * thousandths,
                                     .period = CPU_CAP_PERIOD_NS};
}

void cpu_settings_resolve(const struct cpu_settings *settings, unsigned index,
                          struct sched_params *params)
{
    const struct cpu_setting *own = &settings->vcpu[index], *machine = &settings->machine;
    *params = (struct sched_params){
        .weight = own->weight       ? own->weight
                  : machine->weight ? machine->weight
                                    : SCHED_WEIGHT_DEFAULT,
        .slice = own->slice       ? own->slice
                 : machine->slice ? machine->slice
                                  : SCHED_SLICE_DEFAULT,
        .cap = cpu_cap_limits(own->cap),
    };
    if (own->has_affinity || machine->has_affinity)
        params->affinity = own->has_affinity ? own->affinity : machine->affinity;
    else
        memset(&params->affinity, 0xff, sizeof(params->affinity));
}

// ---- JSON ----

static json_t *setting_to_json(const struct cpu_setting *setting)
{
    json_t *object = json_object();
    for (unsigned i = 0; i < KINDS; i++) {
        json_t *value = kinds[i].to_json(setting);
        if (value)
            json_object_set_new(object, kinds[i].key, value);
    }
    return object;
}

json_t *cpu_settings_to_json(const struct cpu_settings *settings)
{
    json_t *object = setting_to_json(&settings->machine), *vcpus = json_object();
    json_object_set_new(object, "backend", json_string(cpu_backend_names[settings->backend]));
    if (settings->core_group)
        json_object_set_new(object, "group", json_string("own"));
    for (unsigned i = 0; i < CPU_SETTINGS_VCPUS; i++) {
        char number[16];
        snprintf(number, sizeof(number), "%u", i);
        if (says_anything(&settings->vcpu[i]))
            json_object_set_new(vcpus, number, setting_to_json(&settings->vcpu[i]));
    }
    if (json_object_size(vcpus))
        json_object_set(object, "vcpus", vcpus);
    json_decref(vcpus);
    return object;
}

static int value_from_json(struct cpu_setting *setting, const struct kind *kind,
                           const json_t *value, struct error *err)
{
    char number[32];
    const char *text = json_string_value(value);
    if (json_is_null(value))
        text = "none";
    if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        text = number;
    }
    if (!text)
        return error_set(err, EINVAL, "%s: must be %s", kind->key, kind->wanted);
    return set_value(setting, kind, text, err) ? error_prefix(err, "%s", kind->key) : 0;
}

static int setting_from_json(struct cpu_setting *setting, const json_t *object, struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return error_set(err, EINVAL, "must be an object");
    json_object_foreach((json_t *)object, key, value)
    {
        const struct kind *kind = find_kind(key);
        if (!kind)
            return error_set(err, EINVAL, "'%s' is not a key that is known here", key);
        if (value_from_json(setting, kind, value, err) != 0)
            return -EINVAL;
    }
    return 0;
}

static int vcpus_from_json(struct cpu_settings *settings, const json_t *object, struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return error_set(err, EINVAL, "vcpus: must be an object");
    json_object_foreach((json_t *)object, key, value)
    {
        uint64_t index;
        if (units_parse_number(key, CPU_SETTINGS_VCPUS - 1, &index) != 0)
            return error_set(err, EINVAL, "vcpus: '%s' is not a vCPU's number (0 to %d)", key,
                             CPU_SETTINGS_VCPUS - 1);
        if (setting_from_json(&settings->vcpu[index], value, err) != 0)
            return error_prefix(err, "vcpus: %s", key);
    }
    return 0;
}

static int backend_from_json(struct cpu_settings *settings, const json_t *value, struct error *err)
{
    const char *text = json_string_value(value);
    for (int i = 0; text && cpu_backend_names[i]; i++) {
        if (strcmp(text, cpu_backend_names[i]) != 0)
            continue;
        settings->backend = (enum cpu_backend)i;
        return 0;
    }
    return error_set(err, EINVAL, "backend: must be auto, none, own, cgroup2, cgroup1 or sched");
}

int cpu_settings_from_json(struct cpu_settings *settings, const json_t *object, struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return error_set(err, EINVAL, "must be an object");
    json_object_foreach((json_t *)object, key, value)
    {
        const struct kind *kind = find_kind(key);
        int rc;
        if (kind)
            rc = value_from_json(&settings->machine, kind, value, err);
        else if (strcmp(key, "backend") == 0)
            rc = backend_from_json(settings, value, err);
        else if (strcmp(key, "group") == 0)
            rc = cpu_settings_parse_group(settings, json_string_value(value), err);
        else if (strcmp(key, "vcpus") == 0)
            rc = vcpus_from_json(settings, value, err);
        else
            rc = error_set(err, EINVAL, "'%s' is not a key that is known here", key);
        if (rc)
            return rc;
    }
    return 0;
}
