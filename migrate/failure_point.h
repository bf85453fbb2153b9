// Named places in a migration where a test lets something go wrong, in place of luck.
//
// FERRY_FAILURE_POINT=NAME[:ACTION] in the environment of a machine: when it reaches the place it
// kills itself (the default), stops itself (stop), waits a moment (delay), cuts its connections
// (cut) or sends bytes that are no frame (garbage); once. Without the variable a place costs a
// comparison of a pointer with NULL. docs/migration.md lists the places.
#pragma once

enum failure_action { FAILURE_NONE, FAILURE_CUT, FAILURE_GARBAGE };

// What the caller shall do; doesn't return when the process is killed.
enum failure_action failure_point(const char *name);
