#include "cli/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

enum { OPTIONS_LIMIT = 48, LETTER_BASE = 256 }; // values above a letter's stand for table rows

const char *const output_format_names[] = {"text", "json", NULL};

static const struct option_spec help_option = {
    .name = "help", .letter = 'h', .kind = OPTION_FLAG, .help = "print this"};

// ---- help ----

static void print_option(const struct option_spec *option)
{
    char left[80];
    int used = option->letter ? snprintf(left, sizeof(left), "  -%c, ", option->letter)
                              : snprintf(left, sizeof(left), "      ");
    snprintf(left + used, sizeof(left) - (size_t)used, "--%s%s%s", option->name,
             option->argument ? " " : "", option->argument ? option->argument : "");
    if (strlen(left) > 32)
        printf("%s\n%34s%s\n", left, "", option->help);
    else
        printf("%-34s%s\n", left, option->help);
}

void options_print_help(const struct subcommand *command)
{
    printf("Usage: ferry %s%s%s [OPTION]...\n%s\n\n", command->name, *command->arguments ? " " : "",
           command->arguments, command->summary);
    for (const struct option_spec *o = command->options; o->name; o++)
        print_option(o);
    print_option(&help_option);
    if (command->details)
        printf("\n%s\n", command->details);
}

// ---- values ----

static int set_choice(int *value, const struct option_spec *option, const char *text,
                      struct error *err)
{
    char known[200] = "";
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *value = i;
            return 0;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", option->choices[i]);
    }
    return error_set(err, EINVAL, "'%s' is none of: %s", text, known);
}

static int set_value(void *values, const struct option_spec *option, const char *text,
                     struct error *err)
{
    void *value = (char *)values + option->offset;
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)value = true;
        return 0;
    case OPTION_TEXT:
        *(const char **)value = text;
        return 0;
    case OPTION_SIZE:
        if (units_parse_size(text, value) != 0)
            return error_set(err, EINVAL, "'%s' is not a size (examples: 512M, 4G)", text);
        return 0;
    case OPTION_DURATION:
        if (units_parse_duration(text, value) != 0)
            return error_set(err, EINVAL, "'%s' is not a time (examples: 10s, 500ms, 2m)", text);
        return 0;
    case OPTION_NUMBER:
        if (units_parse_number(text, UINT64_MAX, value) != 0)
            return error_set(err, EINVAL, "'%s' is not a number", text);
        return 0;
    case OPTION_CHOICE:
        return set_choice(value, option, text, err);
    case OPTION_CALL:
        break;
    }
    return option->call(values, text, err);
}

// ---- parsing ----

struct getopt_tables {
    struct option longs[OPTIONS_LIMIT + 2];
    char shorts[2 * OPTIONS_LIMIT + 4];
};

static void build_tables(const struct subcommand *command, struct getopt_tables *tables)
{
    int count = 0;
    char *s = tables->shorts;
    *s++ = ':'; // a missing value is told from an unknown option
    for (const struct option_spec *o = command->options; o->name && count < OPTIONS_LIMIT; o++) {
        tables->longs[count] = (struct option){
            o->name, o->argument ? required_argument : no_argument, NULL, LETTER_BASE + count};
        count++;
        if (o->letter) {
            *s++ = o->letter;
            if (o->argument)
                *s++ = ':';
        }
    }
    tables->longs[count++] = (struct option){"help", no_argument, NULL, 'h'};
    tables->longs[count] = (struct option){0};
    *s++ = 'h';
    *s = 0;
}

static const struct option_spec *find_option(const struct subcommand *command, int code)
{
    if (code >= LETTER_BASE)
        return &command->options[code - LETTER_BASE];
    for (const struct option_spec *o = command->options; o->name; o++) {
        if (o->letter == code)
            return o;
    }
    return NULL;
}

static int usage_error(const struct subcommand *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int usage_error(const struct subcommand *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "ferry: %s: ", command->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (`ferry %s --help` shows what there is)\n", command->name);
    va_end(args);
    return STATUS_USAGE;
}

// getopt's complaint about argv[optind - 1], or about the letter in optopt.
static int complain(const struct subcommand *command, char **argv, int code)
{
    const char *word = argv[optind - 1];
    bool is_long = strncmp(word, "--", 2) == 0;
    char letter[3] = {'-', (char)optopt, 0};
    const char *shown = is_long ? word : letter;
    int length = (int)strcspn(shown, "=");
    if (code == ':')
        return usage_error(command, "option %s needs a value", shown);
    if (is_long && optopt >= LETTER_BASE)
        return usage_error(command, "option %.*s takes no value", length, shown);
    return usage_error(command, "option %.*s is not known, or not told in full", length, shown);
}

int options_parse(const struct subcommand *command, int argc, char **argv, void *values,
                  char ***arguments)
{
    struct getopt_tables tables = {0};
    build_tables(command, &tables);
    opterr = 0;
    optind = 0; // starts afresh (glibc)
    int code;
    while ((code = getopt_long(argc, argv, tables.shorts, tables.longs, NULL)) != -1) {
        if (code == 'h') {
            options_print_help(command);
            return STATUS_OK;
        }
        if (code == ':' || code == '?')
            return complain(command, argv, code);
        const struct option_spec *option = find_option(command, code);
        struct error err = {0};
        if (set_value(values, option, optarg, &err) != 0)
            return usage_error(command, "--%s: %s", option->name, err.message);
    }
    for (const struct option_spec *o = command->options; o->name; o++) {
        const char **value = (const char **)((char *)values + o->offset);
        if (o->environment && !*value)
            *value = getenv(o->environment);
    }
    unsigned given = (unsigned)(argc - optind);
    if (given < command->least)
        return usage_error(command, "an argument is missing: ferry %s %s", command->name,
                           command->arguments);
    if (given > command->most)
        return usage_error(command, "'%s' is one argument too many",
                           argv[optind + (int)command->most]);
    *arguments = argv + optind;
    return OPTIONS_GO;
}
