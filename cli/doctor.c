// ferry doctor
#include <stdio.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"
#include "vmm/doctor.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static void print_finding(const struct doctor_finding *finding, void *opaque)
{
    printf("%-8s %-18s %s\n", doctor_verdict_name(finding->verdict), finding->subject,
           finding->fact);
    if (*finding->consequence)
        printf("%27s %s\n", "", finding->consequence);
}

static void collect_finding(const struct doctor_finding *finding, void *opaque)
{
    json_array_append_new(opaque, json_pack("{s:s, s:s, s:s, s:s}", "verdict",
                                            doctor_verdict_name(finding->verdict), "subject",
                                            finding->subject, "fact", finding->fact, "consequence",
                                            finding->consequence));
}

// Takes `findings` over.
static void print_json(const struct doctor_summary *summary, json_t *findings)
{
    json_t *ring0 = summary->ring0_known ? json_boolean(summary->ring0_native) : json_null();
    json_t *object = json_pack("{s:b, s:o, s:o}", "kvm_usable", summary->kvm_usable, "ring0_native",
                               ring0, "findings", findings);
    output_json(object);
    json_decref(object);
}

static int doctor(int argc, char **argv)
{
    struct common_options common = {0};
    struct runtime_dir dir;
    struct error err = {0};
    char **arguments;
    int status = options_parse(&command_doctor, argc, argv, &common, &arguments);
    if (status != OPTIONS_GO)
        return status;
    bool have_dir = runtime_dir_open(&dir, common.runtime_dir, &err) == 0;
    if (!have_dir)
        machine_access_fail(&command_doctor, &err);
    struct doctor_summary summary;
    if (common.format == OUTPUT_JSON) {
        json_t *list = json_array();
        doctor_examine(have_dir ? &dir : NULL, collect_finding, list, &summary);
        print_json(&summary, list);
    } else {
        doctor_examine(have_dir ? &dir : NULL, print_finding, NULL, &summary);
    }
    if (have_dir)
        runtime_dir_close(&dir);
    return summary.worst == DOCTOR_BAD || !have_dir ? STATUS_FAILED : STATUS_OK;
}

const struct subcommand command_doctor = {
    .name = "doctor",
    .arguments = "",
    .summary = "examines this host: what machines can do here, and what follows",
    .details = "Exit status: 1 when no machine can run here.",
    .options = options,
    .run = doctor,
};
