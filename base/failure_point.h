// Named places where a test lets something go wrong, in place of luck.
//
// FERRY_FAILURE_POINT=NAME[:ACTION] in the environment of a process: when it reaches the place it
// kills itself (the default), stops itself (stop), waits a moment (delay), cuts its connections
// (cut) or sends bytes that are no frame (garbage); once. Without the variable a place costs a
// comparison of a pointer with NULL. docs/migration.md lists the places of machines,
// docs/cluster.md those of ferryd.
//
// FERRY_FAILURE_POINT=@FILE: the file has NAME[:ACTION], may be made at any time, and is removed by
// whoever comes to the place. For processes that may open files by name.
#pragma once

enum failure_action { FAILURE_NONE, FAILURE_CUT, FAILURE_GARBAGE };

// What the caller shall do; doesn't return when the process is killed.
enum failure_action failure_point(const char *name);
