// This terminal, or standard input and output, as the other end of a machine's console.
#pragma once

#include "base/error.h"

// Moves bytes both ways until the console ends or the person leaves; closes the descriptor. 0 or a
// sentence.
int console_on(int fd, struct error *err);
