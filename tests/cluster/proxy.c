// A TCP proxy that stands between members of a cluster: it delays, stalls, cuts and resets what
// they say to each other, as a file of rules tells, which may change at any time.
//
//   proxy RULES LISTEN-ADDRESS BASE-PORT COUNT TARGET-PREFIX TARGET-PORT
//
// It listens on BASE-PORT+1 .. BASE-PORT+COUNT and passes connections on to
// TARGET-PREFIX<n>:TARGET-PORT. Who calls is known by the last byte of its address. A rule is a
// line, the last one that fits counts; 0 stands for anybody:
//
//   FROM TO MIN-DELAY-MS MAX-DELAY-MS LOSS-PERCENT hole|reset|pass
//
// TCP loses no bytes, so a lost packet is what it is to TCP: everything behind it comes 200 ms
// later. A hole holds back what was said until it is closed again; then the old words arrive.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

enum { TARGETS_MAX = 16, RULES_MAX = 64, CHUNK = 16384, QUEUE_MAX = 4 << 20, RETRANSMIT_MS = 200 };
enum { LOOK_MS = 5 }; // how often held bytes are looked at, and the rules at every tenth time

enum action { PASS, HOLE, RESET };

struct rule {
    unsigned from, to, delay_min, delay_max, loss;
    enum action action;
};

struct chunk {
    struct chunk *next;
    uint64_t due;
    size_t length;
    uint8_t bytes[];
};

struct pair;

struct side {
    uv_tcp_t tcp;
    struct pair *pair;
    struct side *other;
    bool open, reading;
    struct chunk *first, **last; // read from here, on their way to the other side
    uint64_t due;                // of the last one: nothing overtakes
    size_t queued;
    uint8_t buffer[CHUNK];
};

struct pair {
    struct pair *next;
    struct side caller, target;
    unsigned from, to, open_handles;
    bool closing;
    uv_connect_t connecting;
};

static uv_loop_t *loop;
static struct rule rules[RULES_MAX];
static unsigned rule_count;
static const char *rules_path, *target_prefix;
static int target_port;
static struct pair *pairs;
static uv_tcp_t listeners[TARGETS_MAX + 1];
static uv_timer_t timer;

static void read_rules(void)
{
    FILE *file = fopen(rules_path, "re");
    char line[128], action[16];
    unsigned count = 0;
    if (!file)
        return;
    while (count < RULES_MAX && fgets(line, sizeof(line), file)) {
        struct rule rule;
        if (sscanf(line, "%u %u %u %u %u %15s", &rule.from, &rule.to, &rule.delay_min,
                   &rule.delay_max, &rule.loss, action) != 6)
            continue;
        rule.action = action[0] == 'h' ? HOLE : action[0] == 'r' ? RESET : PASS;
        rules[count++] = rule;
    }
    rule_count = count;
    fclose(file);
}

static struct rule rule_of(unsigned from, unsigned to)
{
    struct rule found = {.action = PASS};
    for (unsigned i = 0; i < rule_count; i++)
        if ((!rules[i].from || rules[i].from == from) && (!rules[i].to || rules[i].to == to))
            found = rules[i];
    return found;
}

// What goes to the target was said by the caller, and the other way round.
static struct rule rule_for(const struct side *side)
{
    const struct pair *pair = side->pair;
    return side == &pair->caller ? rule_of(pair->from, pair->to) : rule_of(pair->to, pair->from);
}

// --- Ending
// -----------------------------------------------------------------------------------------

static void pair_free(struct pair *pair)
{
    struct pair **p = &pairs;
    while (*p != pair)
        p = &(*p)->next;
    *p = pair->next;
    for (int i = 0; i < 2; i++) {
        struct side *side = i ? &pair->target : &pair->caller;
        while (side->first) {
            struct chunk *chunk = side->first;
            side->first = chunk->next;
            free(chunk);
        }
    }
    free(pair);
}

static void handle_closed(uv_handle_t *handle)
{
    struct side *side = handle->data;
    if (--side->pair->open_handles == 0)
        pair_free(side->pair);
}

static void pair_close(struct pair *pair)
{
    if (pair->closing)
        return;
    pair->closing = true;
    uv_close((uv_handle_t *)&pair->caller.tcp, handle_closed);
    uv_close((uv_handle_t *)&pair->target.tcp, handle_closed);
}

// --- Passing on
// -------------------------------------------------------------------------------------

struct writing {
    uv_write_t request;
    struct chunk *chunk;
};

static void written(uv_write_t *request, int status)
{
    struct writing *writing = (struct writing *)request;
    free(writing->chunk);
    free(writing);
}

static void pass_on(struct side *side)
{
    uint64_t now = uv_now(loop);
    struct rule rule = rule_for(side);
    if (rule.action == RESET) {
        pair_close(side->pair);
        return;
    }
    while (rule.action == PASS && side->other->open && side->first && side->first->due <= now) {
        struct chunk *chunk = side->first;
        struct writing *writing = malloc(sizeof(*writing));
        if (!writing)
            abort();
        side->first = chunk->next;
        if (!side->first)
            side->last = &side->first;
        side->queued -= chunk->length;
        writing->chunk = chunk;
        uv_buf_t buffer = uv_buf_init((char *)chunk->bytes, (unsigned)chunk->length);
        if (uv_write(&writing->request, (uv_stream_t *)&side->other->tcp, &buffer, 1, written)) {
            free(chunk);
            free(writing);
            pair_close(side->pair);
            return;
        }
    }
}

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct side *side = handle->data;
    *buffer = uv_buf_init((char *)side->buffer, CHUNK);
}

static void came(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
    struct side *side = stream->data;
    if (length < 0) {
        pair_close(side->pair);
        return;
    }
    if (length == 0)
        return;
    struct rule rule = rule_for(side);
    struct chunk *chunk = malloc(sizeof(*chunk) + (size_t)length);
    if (!chunk)
        abort();
    unsigned delay = rule.delay_min;
    if (rule.delay_max > rule.delay_min)
        delay += (unsigned)rand() % (rule.delay_max - rule.delay_min + 1);
    if ((unsigned)rand() % 100 < rule.loss)
        delay += RETRANSMIT_MS;
    uint64_t due = uv_now(loop) + delay;
    side->due = due > side->due ? due : side->due;
    *chunk = (struct chunk){.due = side->due, .length = (size_t)length};
    memcpy(chunk->bytes, buffer->base, (size_t)length);
    *side->last = chunk;
    side->last = &chunk->next;
    side->queued += (size_t)length;
    if (side->queued > QUEUE_MAX) {
        uv_read_stop(stream);
        side->reading = false;
    }
    pass_on(side);
}

static void read_more(struct side *side)
{
    if (!side->open || side->reading || side->queued > QUEUE_MAX / 2 || side->pair->closing)
        return;
    side->reading = uv_read_start((uv_stream_t *)&side->tcp, allocate, came) == 0;
}

static void look(uv_timer_t *handle)
{
    static unsigned count;
    struct pair *next;
    if (count++ % 10 == 0)
        read_rules();
    for (struct pair *pair = pairs; pair; pair = next) {
        next = pair->next;
        if (!pair->closing)
            pass_on(&pair->caller);
        if (!pair->closing)
            pass_on(&pair->target);
        if (!pair->closing) {
            read_more(&pair->caller);
            read_more(&pair->target);
        }
    }
}

// --- Beginning
// --------------------------------------------------------------------------------------

static void connected(uv_connect_t *request, int status)
{
    struct pair *pair = request->data;
    if (pair->closing)
        return;
    if (status < 0) {
        pair_close(pair);
        return;
    }
    uv_tcp_nodelay(&pair->target.tcp, 1);
    pair->target.open = true;
    read_more(&pair->target);
}

static void side_init(struct pair *pair, struct side *side, struct side *other)
{
    uv_tcp_init(loop, &side->tcp);
    side->tcp.data = side;
    side->pair = pair;
    side->other = other;
    side->last = &side->first;
    pair->open_handles++;
}

static unsigned caller_number(const uv_tcp_t *tcp)
{
    struct sockaddr_storage address;
    int length = sizeof(address);
    if (uv_tcp_getpeername(tcp, (struct sockaddr *)&address, &length))
        return 0;
    return ntohl(((struct sockaddr_in *)&address)->sin_addr.s_addr) & 0xff;
}

static void called(uv_stream_t *listener, int status)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    struct sockaddr_in address;
    char host[64];
    if (!pair)
        abort();
    pair->to = (unsigned)((uv_tcp_t *)listener - listeners);
    pair->next = pairs;
    pairs = pair;
    side_init(pair, &pair->caller, &pair->target);
    side_init(pair, &pair->target, &pair->caller);
    if (status < 0 || uv_accept(listener, (uv_stream_t *)&pair->caller.tcp)) {
        pair_close(pair);
        return;
    }
    pair->from = caller_number(&pair->caller.tcp);
    if (rule_of(pair->from, pair->to).action == RESET) {
        pair_close(pair);
        return;
    }
    uv_tcp_nodelay(&pair->caller.tcp, 1);
    pair->caller.open = true;
    snprintf(host, sizeof(host), "%s%u", target_prefix, pair->to);
    pair->connecting.data = pair;
    if (uv_ip4_addr(host, target_port, &address) ||
        uv_tcp_connect(&pair->connecting, &pair->target.tcp, (const struct sockaddr *)&address,
                       connected)) {
        pair_close(pair);
        return;
    }
    read_more(&pair->caller);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: proxy RULES ADDRESS BASE-PORT COUNT TARGET-PREFIX TARGET-PORT\n");
        return 2;
    }
    int base = atoi(argv[3]), count = atoi(argv[4]);
    rules_path = argv[1];
    target_prefix = argv[5];
    target_port = atoi(argv[6]);
    loop = uv_default_loop();
    signal(SIGPIPE, SIG_IGN);
    srand(1);
    for (int i = 1; i <= count && i <= TARGETS_MAX; i++) {
        struct sockaddr_in address;
        int code = uv_ip4_addr(argv[2], base + i, &address);
        uv_tcp_init(loop, &listeners[i]);
        if (!code)
            code = uv_tcp_bind(&listeners[i], (const struct sockaddr *)&address, 0);
        if (!code)
            code = uv_listen((uv_stream_t *)&listeners[i], 64, called);
        if (code) {
            fprintf(stderr, "proxy: %s:%d: %s\n", argv[2], base + i, uv_strerror(code));
            return 1;
        }
    }
    uv_timer_init(loop, &timer);
    uv_timer_start(&timer, look, 0, LOOK_MS);
    puts("ready");
    fflush(stdout);
    return uv_run(loop, UV_RUN_DEFAULT);
}
