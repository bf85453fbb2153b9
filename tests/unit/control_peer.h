// A control socket on a loop of the test's own, and a client that writes and reads its lines by
// hand.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/error.h"

// What the server of the test lives on.
struct control_place {
    uv_loop_t loop;
    struct error err;
    char path[64];
};
extern struct control_place control_place;

void run_loop(void);
// The listening socket for a server.
int listen_here(void);
// After the server has gone.
void leave_place(void);

int join(void);
// The next line: a new object; NULL at the end of the connection, or when nothing comes.
json_t *next_line(int fd);
// The same for one that comes when a timer of the server has run out.
json_t *next_event(int fd);
bool is_closed(int fd);
int join_past_hello(void);
void send_text(int fd, const char *text);
void expect_line(int fd, const char *json);
void expect_error(int fd, const char *id, const char *code);
void send_with_fds(int fd, const char *text, const int *fds, unsigned count);
int open_fds(void);
// A readable descriptor with this text in it.
int text_fd(const char *text);
