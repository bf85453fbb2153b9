// Standard input, output and error of a process, whatever its caller has left of them.
#pragma once

// Gives those that are closed a place where nothing can be read or written. Else the next file that
// is opened (a log, a disk) would get the number, and what is printed would go into it. First thing
// in main().
void standard_files_occupy(void);
// NULL, or a sentence: something that was printed hasn't been taken. Last thing in main().
const char *standard_output_end(void);
