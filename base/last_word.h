// What a process says before a signal ends it. A machine's process has no parent that waits for it
// and leaves no core file: without this, all that stays of a fault is a lock that nobody holds.
//
// The word is a line of the log which begins with LAST_WORD; who finds the machine dead reads it
// there (base/runtime_dir.h). SIGKILL can't be caught: a death without a word was one by force.
#pragma once

#include <signal.h>

#define LAST_WORD "this process ends here: "

// From now on the signals that nobody handles and that end a process are logged first: which, in
// which thread, where, and who sent it. They still end it. Handlers that are set later replace
// this; whoever blocks signals leaves those of faults open.
void last_word_prepare(void);

// Takes the signals of faults and of denied system calls out of the set: the thread that blocks
// them ends the process without a word.
void last_word_leave_open(sigset_t *blocked);
