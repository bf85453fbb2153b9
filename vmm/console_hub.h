// The console hub: between the machine's serial port and everybody who looks at it.
//
//   guest --console_hub_write()--> ring --main loop--> foreground (lossless)
//                                                  --> console.log (bounded, newest kept)
//                                                  --> clients of console.sock (lossy when slow)
//   foreground, clients --main loop--> console_guest.input()
//
// Back-pressure comes from the foreground alone: while it takes nothing the ring fills up, and
// console_hub_write() accepts less than it was given. Nobody else can slow the guest down: a client
// that doesn't keep up misses bytes, and a line in its stream says how many.
//
// Threads: console_hub_write() and console_hub_input_ready() may be called from any thread and
// never block; everything else, and every callback, is on the main thread.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"

enum {
    CONSOLE_RING_SIZE = 64 * 1024,
    CONSOLE_LOG_LIMIT = 4 * 1024 * 1024, // when the log reaches this its older half is dropped
    CONSOLE_CLIENTS_LIMIT = 16,
};

struct console_hub;

// The guest's end. Called on the main thread.
struct console_guest {
    // Input for the guest: returns how many bytes were taken, from the front. After it took less
    // than all, console_hub_input_ready() says when to try again.
    size_t (*input)(void *opaque, const uint8_t *bytes, size_t length);
    // There is room in the ring again after console_hub_write() accepted less than all.
    void (*output_ready)(void *opaque);
};

// A place where every byte must arrive: the terminal or pipe of a foreground run.
struct console_foreground {
    // Returns how many bytes were taken. After it took less than all,
    // console_hub_foreground_ready() says when to try again.
    size_t (*output)(void *opaque, const uint8_t *bytes, size_t length);
    // Input that the guest had no room for can be offered again.
    void (*input_ready)(void *opaque);
};

// `log_fd` is console.log opened for reading and writing, `listen_fd` the bound console.sock; both
// belong to the hub once this succeeded; -1 leaves one out. 0 or -errno with a sentence.
int console_hub_create(struct console_hub **hub, uv_loop_t *loop, int log_fd, int listen_fd,
                       struct error *err);
// Closes everything. Its handles are gone when the loop has run once more. The guest must not write
// any more. NULL is allowed.
void console_hub_destroy(struct console_hub *hub);

// Output of the guest. Returns how many bytes were accepted, from the front: 0 to `length`.
size_t console_hub_write(struct console_hub *hub, const uint8_t *bytes, size_t length);
// The guest has room for input again.
void console_hub_input_ready(struct console_hub *hub);

// Connects the guest; NULL disconnects it (input is then discarded).
void console_hub_set_guest(struct console_hub *hub, const struct console_guest *guest,
                           void *opaque);

// Connects the foreground; NULL disconnects it.
void console_hub_set_foreground(struct console_hub *hub,
                                const struct console_foreground *foreground, void *opaque);
void console_hub_foreground_ready(struct console_hub *hub);
// Input from the foreground: returns how many bytes were taken.
size_t console_hub_foreground_input(struct console_hub *hub, const uint8_t *bytes, size_t length);

// For the end of a guest: moves what is still in the ring on, and calls `done` once, when the last
// byte was taken by the foreground and the clients were sent what they were going to get (slow ones
// are not waited for longer than a second). The guest must have stopped.
void console_hub_drain(struct console_hub *hub, void (*done)(void *opaque), void *opaque);
