// A runtime directory of the test's own, as a fixture.
#pragma once

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/runtime_dir.h"

static char root[PATH_MAX];
static struct runtime_dir dir;
static struct error err;

static void set_up(void)
{
    err = (struct error){0};
    snprintf(root, sizeof(root), "/tmp/ferry-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_int_eq(runtime_dir_open(&dir, root, &err), 0);
}

static void tear_down(void)
{
    char command[PATH_MAX + 20];
    runtime_dir_close(&dir);
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}
