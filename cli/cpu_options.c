#include "cli/cpu_options.h"

#include <string.h>

int cpu_options_backend(struct cpu_settings *settings, const char *text, struct error *err)
{
    for (int i = 0; cpu_backend_names[i]; i++) {
        if (strcmp(cpu_backend_names[i], text) != 0)
            continue;
        settings->backend = (enum cpu_backend)i;
        return 0;
    }
    return error_set(err, EINVAL, "'%s' is not one of auto, none, own, cgroup2, cgroup1, sched",
                     text);
}
