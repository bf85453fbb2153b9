#include "cli/lease_option.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"

static int parse_field(struct lease_option *option, const char *key, const char *value,
                       struct error *err)
{
    struct machine_lease_params *p = &option->params;
    uint64_t most = INT64_MAX; // so that JSON can carry it
    int rc = -EINVAL;
    if (strcmp(key, "deadline") == 0 && strcmp(value, "none") == 0) {
        p->deadline_ns = LEASE_UNBOUNDED;
        return 0;
    }
    if (strcmp(key, "new-disks") == 0 && !*value) {
        p->new_disks = true;
        return 0;
    }
    if (strcmp(key, "uuid") == 0)
        rc = uuid_parse(value, &p->uuid);
    else if (strcmp(key, "epoch") == 0)
        rc = units_parse_number(value, most, &p->epoch);
    else if (strcmp(key, "deadline") == 0)
        rc = units_parse_number(value, most, &p->deadline_ns);
    else if (strcmp(key, "accept") == 0)
        rc = units_parse_number(value, most, &option->accept_ns);
    else if (strcmp(key, "keep") == 0)
        rc = units_parse_duration(value, &p->keep_ns);
    else if (strcmp(key, "witness") == 0)
        rc = snprintf(p->witness, sizeof(p->witness), "%s", value) < (int)sizeof(p->witness)
                 ? 0
                 : -EINVAL;
    else if (strcmp(key, "boot") == 0)
        rc = snprintf(p->boot_id, sizeof(p->boot_id), "%s", value) < (int)sizeof(p->boot_id)
                 ? 0
                 : -EINVAL;
    else
        return error_set(err, EINVAL, "a lease has no field '%s'", key);
    return rc < 0 ? error_set(err, EINVAL, "the lease's %s can't be '%s'", key, value) : 0;
}

int lease_option_parse(struct lease_option *option, const char *text, struct error *err)
{
    struct machine_lease_params *p = &option->params;
    static const struct uuid none;
    char *copy = strdup(text), *rest = copy, *field;
    int rc = copy ? 0 : error_set(err, ENOMEM, "out of memory");
    *p = (struct machine_lease_params){.keep_ns = LEASE_KEEP_DEFAULT};
    option->given = true;
    while (rc == 0 && (field = strsep(&rest, ","))) {
        char *value = field;
        const char *key = strsep(&value, "=");
        rc = parse_field(option, key, value ? value : "", err);
    }
    free(copy);
    if (rc < 0)
        return rc;
    if (uuid_equal(&p->uuid, &none) || p->epoch == 0 || p->deadline_ns == 0)
        return error_set(err, EINVAL, "a lease wants uuid=, epoch= and deadline=");
    // One that was held up until now: what it was started for may be long over.
    if (option->accept_ns && clock_boottime_ns() >= option->accept_ns)
        return error_set(err, ETIMEDOUT, "the lease has run out before the machine's start");
    if (!p->boot_id[0])
        rc = machine_lease_boot_id(p->boot_id, sizeof(p->boot_id));
    return rc < 0 ? error_set_errno(err, -rc, "finding out which boot this is") : 0;
}

int lease_option_apply(const struct lease_option *option, struct machine_config *config,
                       struct error *err)
{
    static const struct uuid none;
    char text[UUID_TEXT_SIZE];
    if (!option->given)
        return 0;
    if (uuid_equal(&config->uuid, &none))
        config->uuid = option->params.uuid;
    if (!uuid_equal(&config->uuid, &option->params.uuid))
        return error_set(err, EINVAL, "the lease is of another machine: this one is %s",
                         uuid_format(&config->uuid, text));
    return 0;
}

const struct machine_lease_params *lease_option_params(const struct lease_option *option)
{
    return option->given ? &option->params : NULL;
}
