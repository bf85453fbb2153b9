#include "base/standard_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void standard_files_occupy(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++) {
        // The wrong way round, so that using it fails as using a closed one does; but standard
        // input is empty then.
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", O_RDONLY);
    }
}

const char *standard_output_end(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return NULL;
    // What failed before is not known any more.
    return errno ? strerror(errno) : "the disk is full, or its reader has gone";
}
