// ferry top: what machines and vCPUs use of the CPUs, live.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"
#include "cli/terminal.h"

enum sort_key { SORT_CPU, SORT_NAME, SORT_STEAL, SORT_EXITS };
static const char *const sort_names[] = {"cpu", "name", "steal", "exits", NULL};

struct top_options {
    struct common_options common;
    bool once;
    int sort; // enum sort_key
    uint64_t interval_ns;
};

static const struct option_spec options[] = {
    {.name = "once",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct top_options, once),
     .help = "print once, also on a terminal"},
    {.name = "sort",
     .kind = OPTION_CHOICE,
     .offset = offsetof(struct top_options, sort),
     .argument = "cpu|name|steal|exits",
     .choices = sort_names,
     .help = "what comes first (cpu)"},
    {.name = "interval",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct top_options, interval_ns),
     .argument = "TIME",
     .help = "between two looks (1s)"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

// A machine (vcpu -1) or one of its vCPUs: counters first, then what they became in an interval.
struct row {
    char name[NAME_LIMIT + 1], state[16], backend[16];
    int vcpu;
    uint64_t cpu_ns, stolen_ns, exits;
    unsigned share; // wanted, thousandths
    uint64_t wake_p99_us;
    double cpu, stolen, exits_a_second; // per cent of a CPU
};

struct look {
    struct row *rows;
    size_t count, room;
    uint64_t at;
};

// ---- looking ----

static struct row *add_row(struct look *look)
{
    if (look->count == look->room) {
        size_t room = look->room ? 2 * look->room : 64;
        struct row *rows = realloc(look->rows, room * sizeof(*rows));
        if (!rows)
            return NULL;
        look->rows = rows;
        look->room = room;
    }
    struct row *row = &look->rows[look->count++];
    *row = (struct row){.vcpu = -1};
    return row;
}

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void copy_text(char *to, size_t size, const json_t *value)
{
    snprintf(to, size, "%s", json_is_string(value) ? json_string_value(value) : "");
}

static int add_machine(struct look *look, const char *name, const json_t *stats)
{
    struct row sum = {.vcpu = -1};
    size_t at = look->count, i;
    const json_t *vcpu;
    if (!add_row(look))
        return -ENOMEM;
    snprintf(sum.name, sizeof(sum.name), "%s", name);
    copy_text(sum.state, sizeof(sum.state), json_object_get(stats, "state"));
    copy_text(sum.backend, sizeof(sum.backend),
              json_object_get(json_object_get(stats, "cpu"), "backend"));
    json_array_foreach(json_object_get(stats, "vcpus"), i, vcpu)
    {
        struct row *row = add_row(look);
        if (!row)
            return -ENOMEM;
        *row = sum;
        row->vcpu = (int)i;
        row->cpu_ns = number(vcpu, "cpu_ns");
        row->stolen_ns = number(vcpu, "run_delay_ns") + number(vcpu, "withheld_ns");
        row->exits = number(vcpu, "exits_total");
        row->share = (unsigned)number(vcpu, "share");
        row->wake_p99_us = number(vcpu, "wake_p99_us");
    }
    for (size_t n = at + 1; n < look->count; n++) {
        const struct row *row = &look->rows[n];
        sum.cpu_ns += row->cpu_ns;
        sum.stolen_ns += row->stolen_ns;
        sum.exits += row->exits;
        sum.share += row->share;
        if (row->wake_p99_us > sum.wake_p99_us)
            sum.wake_p99_us = row->wake_p99_us;
    }
    look->rows[at] = sum;
    return 0;
}

struct visit {
    const struct runtime_dir *dir;
    struct look *look;
};

static int visit_machine(const char *name, bool alive, void *opaque)
{
    const struct visit *visit = opaque;
    struct error err = {0};
    json_t *stats = NULL;
    // One that starts, ends or hangs is left out of this look.
    if (!alive || machine_access_call(visit->dir, name, "stats", &stats, &err) != 0)
        return 0;
    int r = add_machine(visit->look, name, stats);
    json_decref(stats);
    return r;
}

static int take_look(const struct runtime_dir *dir, struct look *look, struct error *err)
{
    struct visit visit = {dir, look};
    look->count = 0;
    look->at = clock_monotonic_ns();
    return runtime_dir_list(dir, visit_machine, &visit, err);
}

// What happened between two looks; a machine that wasn't there before has nothing yet.
static void compare(struct look *now, const struct look *before)
{
    double seconds = (double)(now->at - before->at) / 1e9;
    for (size_t i = 0; i < now->count; i++) {
        struct row *row = &now->rows[i];
        for (size_t j = 0; j < before->count; j++) {
            const struct row *old = &before->rows[j];
            if (old->vcpu != row->vcpu || strcmp(old->name, row->name) != 0 ||
                row->cpu_ns < old->cpu_ns || row->stolen_ns < old->stolen_ns ||
                row->exits < old->exits)
                continue;
            row->cpu = (double)(row->cpu_ns - old->cpu_ns) / 1e7 / seconds;
            row->stolen = (double)(row->stolen_ns - old->stolen_ns) / 1e7 / seconds;
            row->exits_a_second = (double)(row->exits - old->exits) / seconds;
        }
    }
}

// ---- order ----

static double sort_value(const struct row *row, int key)
{
    return key == SORT_CPU ? row->cpu : key == SORT_STEAL ? row->stolen : row->exits_a_second;
}

// Machines by the key, each with its vCPUs behind it.
static int compare_machines(const void *a, const void *b, void *key)
{
    const struct row *x = *(const struct row *const *)a, *y = *(const struct row *const *)b;
    double difference =
        *(int *)key == SORT_NAME ? 0 : sort_value(y, *(int *)key) - sort_value(x, *(int *)key);
    return difference > 0 ? 1 : difference < 0 ? -1 : strcmp(x->name, y->name);
}

// ---- printing ----

// What a table may take: a line that is wider would go on in the next one and push others out.
struct page {
    unsigned lines, columns;
    const char *end; // of a line
};

static void print_row(const struct row *row, const struct page *page)
{
    char name[NAME_LIMIT + 8], want[16] = "-", wait[24] = "-", line[160];
    if (row->vcpu >= 0)
        snprintf(name, sizeof(name), "  vcpu%d", row->vcpu);
    else
        snprintf(name, sizeof(name), "%s", row->name);
    if (row->share)
        snprintf(want, sizeof(want), "%.1f", row->share / 10.0);
    if (row->wake_p99_us)
        snprintf(wait, sizeof(wait), "%llu", (unsigned long long)row->wake_p99_us);
    snprintf(line, sizeof(line), "%-24s %-8s %-8s %7.1f %7s %7.1f %9.0f %9s", name,
             row->vcpu < 0 ? row->state : "", row->vcpu < 0 ? row->backend : "", row->cpu, want,
             row->stolen, row->exits_a_second, wait);
    printf("%.*s%s", (int)page->columns, line, page->end);
}

static void print_table(const struct look *look, int sort, bool with_vcpus, const struct page *page)
{
    const struct row **machines = calloc(look->count + 1, sizeof(machines[0]));
    size_t count = 0;
    char head[160];
    snprintf(head, sizeof(head), "%-24s %-8s %-8s %7s %7s %7s %9s %9s", "NAME", "STATE", "BACKEND",
             "CPU%", "WANTED%", "STOLEN%", "EXITS/S", "WAKE99US");
    printf("%.*s%s", (int)page->columns, head, page->end);
    for (size_t i = 0; machines && i < look->count; i++)
        if (look->rows[i].vcpu < 0)
            machines[count++] = &look->rows[i];
    if (count)
        qsort_r(machines, count, sizeof(machines[0]), compare_machines, &sort);
    unsigned printed = 1;
    for (size_t i = 0; i < count && printed < page->lines; i++) {
        const struct row *row = machines[i];
        do {
            print_row(row++, page);
            printed++;
        } while (with_vcpus && printed < page->lines && row < look->rows + look->count &&
                 row->vcpu >= 0);
    }
    free(machines);
    fflush(stdout);
}

static void print_json(const struct look *look)
{
    json_t *list = json_array();
    for (size_t i = 0; i < look->count; i++) {
        const struct row *row = &look->rows[i];
        json_t *object = json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:I}", "name", row->name,
                                   "state", row->state, "backend", row->backend, "cpu_percent",
                                   row->cpu, "wanted_percent", row->share / 10.0, "stolen_percent",
                                   row->stolen, "exits_per_second", row->exits_a_second,
                                   "wake_p99_us", (json_int_t)row->wake_p99_us);
        if (row->vcpu >= 0)
            json_object_set_new(object, "vcpu", json_integer(row->vcpu));
        json_array_append_new(list, object);
    }
    output_json(list);
    json_decref(list);
}

// ---- live ----

// The terminal's, without its last line, where the cursor stays.
static struct page screen(void)
{
    struct winsize size;
    struct page page = {.lines = 23, .columns = 80, .end = "\r\n"};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col)
        page = (struct page){size.ws_row > 1 ? size.ws_row - 1u : 1, size.ws_col, "\r\n"};
    return page;
}

// Waits for a key or the next look. False to end.
static bool serve_keys(struct top_options *o, bool *with_vcpus)
{
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t until = clock_monotonic_ns() + o->interval_ns, now;
    char key;
    while ((now = clock_monotonic_ns()) < until) {
        if (poll(&keys, 1, (int)((until - now) / NSEC_PER_MSEC) + 1) <= 0)
            continue;
        if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 3 || key == 4)
            return false;
        if (key == 'v')
            *with_vcpus = !*with_vcpus;
        else if (strchr("cnse", key) && key)
            o->sort = (int)(strchr("cnse", key) - "cnse");
        else
            continue;
        return true;
    }
    return true;
}

static int run_live(const struct runtime_dir *dir, struct top_options *o, struct error *err)
{
    struct look looks[2] = {0};
    bool with_vcpus = true;
    unsigned turn = 0;
    int r = terminal_make_raw(STDIN_FILENO);
    if (r < 0)
        return error_set_errno(err, -r, "preparing the terminal");
    terminal_restore_on_end_signals();
    r = take_look(dir, &looks[1], err);
    for (; !r; turn ^= 1) {
        struct look *now = &looks[turn];
        r = take_look(dir, now, err);
        if (r)
            break;
        compare(now, &looks[turn ^ 1]);
        struct page page = screen();
        printf("\033[H\033[J");
        print_table(now, o->sort, with_vcpus, &page);
        if (!serve_keys(o, &with_vcpus))
            break;
    }
    terminal_restore();
    free(looks[0].rows);
    free(looks[1].rows);
    return r;
}

static int run_once(const struct runtime_dir *dir, const struct top_options *o, struct error *err)
{
    struct look before = {0}, now = {0};
    struct timespec pause = {.tv_sec = (time_t)(o->interval_ns / NSEC_PER_SEC),
                             .tv_nsec = (long)(o->interval_ns % NSEC_PER_SEC)};
    int r = take_look(dir, &before, err);
    nanosleep(&pause, NULL);
    if (!r)
        r = take_look(dir, &now, err);
    if (!r) {
        compare(&now, &before);
        if (o->common.format == OUTPUT_JSON)
            print_json(&now);
        else
            print_table(&now, o->sort, true, &(struct page){UINT32_MAX, INT16_MAX, "\n"});
    }
    free(before.rows);
    free(now.rows);
    return r;
}

static int top(int argc, char **argv)
{
    struct top_options o = {.interval_ns = NSEC_PER_SEC};
    struct runtime_dir dir;
    struct error err = {0};
    char **arguments;
    int status = options_parse(&command_top, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (runtime_dir_open(&dir, o.common.runtime_dir, &err) != 0)
        return machine_access_fail(&command_top, &err);
    bool live = !o.once && o.common.format == OUTPUT_TEXT && isatty(STDOUT_FILENO) &&
                terminal_is_ours(STDIN_FILENO);
    int r = live ? run_live(&dir, &o, &err) : run_once(&dir, &o, &err);
    runtime_dir_close(&dir);
    return r ? machine_access_fail(&command_top, &err) : STATUS_OK;
}

const struct subcommand command_top = {
    .name = "top",
    .arguments = "",
    .summary = "shows what machines and vCPUs use of the CPUs, live",
    .details = "Keys: q ends; c, n, s, e sort by CPU, name, stolen time, exits; v folds vCPUs.",
    .options = options,
    .least = 0,
    .most = 0,
    .run = top,
};
