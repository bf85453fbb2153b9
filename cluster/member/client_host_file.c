#include "cluster/member/client_host_file.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/member/member_internal.h"

static const char head[] = "ferry-client-host 1";

bool client_host_file_exists(const char *directory)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/client-host", directory);
    return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

void client_host_file_add(struct client_host_file *file, const char *address)
{
    bool printable = address[0];
    for (const char *at = address; *at; at++)
        printable = printable && *at > ' ' && *at < 127 && *at != ',';
    if (printable && file->count < CLIENT_HOST_MEMBERS)
        snprintf(file->members[file->count++], MEMBER_ADDRESS_SIZE, "%s", address);
}

static bool take_cluster(struct client_host_file *file, const char *digits)
{
    unsigned value;
    if (strlen(digits) != 2 * sizeof(file->cluster) ||
        strspn(digits, "0123456789abcdef") != 2 * sizeof(file->cluster))
        return false;
    for (size_t i = 0; i < sizeof(file->cluster); i++) {
        sscanf(digits + 2 * i, "%2x", &value);
        file->cluster[i] = (uint8_t)value;
    }
    return true;
}

static bool take_line(struct client_host_file *file, char *line, bool *cluster)
{
    char *end;
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, "cluster ", 8) == 0)
        return *cluster = take_cluster(file, line + 8);
    if (strncmp(line, "member ", 7) == 0) {
        client_host_file_add(file, line + 7);
        return true;
    }
    if (strncmp(line, "id ", 3) != 0)
        return true; // of a later version
    file->id = strtoull(line + 3, &end, 16);
    return *end == 0 && strlen(line + 3) == 16;
}

int client_host_file_load(struct client_host_file *file, const char *directory, struct error *err)
{
    char path[PATH_MAX], line[MEMBER_ADDRESS_SIZE + 16] = "";
    bool cluster = false, good;
    snprintf(path, sizeof(path), "%s/client-host", directory);
    *file = (struct client_host_file){.id = 0};
    FILE *in = fopen(path, "re");
    if (!in)
        return error_set_errno(err, errno, "'%s' can't be read", path);
    good = fgets(line, sizeof(line), in) && strncmp(line, head, sizeof(head) - 1) == 0 &&
           line[sizeof(head) - 1] == '\n';
    while (good && fgets(line, sizeof(line), in))
        good = take_line(file, line, &cluster);
    fclose(in);
    if (good && cluster && file->id && file->count)
        return 0;
    return error_set(
        err, EINVAL,
        "'%s' is damaged, or of a later version: `ferry cluster remove` this host, and "
        "let it join anew with an empty directory",
        path);
}

int client_host_file_save(const struct client_host_file *file, const char *directory,
                          struct error *err)
{
    char text[CLIENT_HOST_MEMBERS * (MEMBER_ADDRESS_SIZE + 8) + 128];
    int n = snprintf(text, sizeof(text), "%s\ncluster ", head);
    for (size_t i = 0; i < sizeof(file->cluster); i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%02x", file->cluster[i]);
    n += snprintf(text + n, sizeof(text) - (size_t)n, "\nid %016" PRIx64 "\n", file->id);
    for (unsigned i = 0; i < file->count; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "member %s\n", file->members[i]);
    return member_write_file(directory, "client-host", text, err);
}
