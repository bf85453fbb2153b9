#include "vmm/sched/sched_board.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { BOARD_VERSION = 4, AREAS = 4, CACHE_LINE = 64, TOLD_LIMIT = 16 };
enum { BOARDS_OF_FILES = 8 }; // in one process
enum { NONSENSE_MOST = 3 };   // boards that a machine leaves before it stays for itself
enum { JOINING = BOARD_MEMBERS, JOIN_TRIES = 3000 };
#define BOARD_MAGIC    UINT64_C(0x6472616f42797265) // "eryBoard"
#define MEMBER_LOCKS   (INT64_C(1) << 40)           // far behind the file's contents
#define LEASE_GRACE_NS (5 * NSEC_PER_MSEC)
#define LEASE_MOST_NS  (100 * NSEC_PER_MSEC) // however busy the host is
#define DEAD_HOLD_NS   (2 * NSEC_PER_MSEC)
#define LONG_HOLD_NS   (20 * NSEC_PER_MSEC)
#define LOOK_AGAIN_NS  (100 * NSEC_PER_MSEC) // where nobody in particular watches
#define STUCK_NS       (2 * NSEC_PER_SEC)    // every area is held: never seen, unless by nonsense
#define AUDIT_NS       NSEC_PER_SEC
#define WAITERS        0x80000000u
// A file's generations stay below; a board that became a machine's own begins here.
#define ALONE_GENERATION (UINT64_C(1) << 40)

// Where a vCPU sleeps. One cache line each: the wakers of different ones don't disturb each other.
struct turn {
    _Alignas(CACHE_LINE) _Atomic uint32_t word;
};

struct area {
    // 0: free; else member + 1 of the holder, with WAITERS when somebody may sleep on it.
    _Alignas(CACHE_LINE) _Atomic uint32_t lock;
    _Atomic uint32_t holds; // how often it was taken: tells one hold from the next
    // Below: guarded by the lock.
    uint64_t generation;                // + 1, for which it was set up; 0 = never
    uint32_t owner[BOARD_MEMBERS];      // of a group: member + 1, 0 = nobody
    uint64_t lease[SCHED_CPUS_LIMIT];   // until when a CPU is granted
    uint32_t watcher[SCHED_CPUS_LIMIT]; // entity + 1 that watches over it
    uint32_t stretch[SCHED_CPUS_LIMIT]; // time that runs take beyond what they use, in 1/16 of that
    struct turn turns[BOARD_ENTITIES];
    _Alignas(CACHE_LINE) unsigned char policy[]; // struct sched_policy
};

struct header {
    _Atomic uint64_t magic, version;
    _Atomic uint64_t generation; // area generation % AREAS counts
};

struct board {
    int fd; // -1: nobody else
    // The file wasn't to be relied on: since then the memory is this machine's alone. Set by any
    // thread, in signal context as well.
    atomic_bool alone;
    bool alone_is_said;
    unsigned nonsense; // boards that were left for what they held
    uint64_t audited;
    uint32_t member;
    void *memory;
    size_t size;
    struct sched_cpus cpus;
    // While the lock is held: the area, and who is to be woken once it is given back (a woken
    // thread must not find it taken).
    struct area *held;
    uint32_t told[TOLD_LIMIT];
    unsigned told_count;
};

static size_t area_size(void)
{
    size_t size = sizeof(struct area) + sched_policy_size(BOARD_ENTITIES);
    return (size + 4095) & ~(size_t)4095;
}

// With room for the entities that nonsense may speak of, behind each area: the next ones, and at
// the end pages that nobody touches.
static size_t board_size(void)
{
    size_t last = sizeof(struct area) + sched_policy_size(SCHED_ENTITIES_LIMIT);
    return 4096 + (AREAS - 1) * area_size() + ((last + 4095) & ~(size_t)4095);
}

static struct header *header_of(const struct board *b)
{
    return b->memory;
}

static struct area *area_of(const struct board *b, uint64_t generation)
{
    return (struct area *)((char *)b->memory + 4096 + generation % AREAS * area_size());
}

static struct turn *turn_of(struct area *area, uint32_t id)
{
    return &area->turns[id % BOARD_ENTITIES];
}

static struct sched_policy *policy_of(struct area *area)
{
    return (struct sched_policy *)area->policy;
}

static uint64_t generation_of(const struct board *b)
{
    return atomic_load(&header_of(b)->generation);
}

static bool is_shared(const struct board *b)
{
    return b->fd >= 0 && !atomic_load(&b->alone);
}

static void begin_header(struct board *b, uint64_t generation)
{
    struct header *header = header_of(b);
    atomic_store(&header->magic, BOARD_MAGIC);
    atomic_store(&header->version, BOARD_VERSION);
    if (generation)
        atomic_store(&header->generation, generation);
}

// ---- futexes, shared between processes ----

static void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until)
{
    struct timespec deadline = {.tv_sec = (time_t)(until / NSEC_PER_SEC),
                                .tv_nsec = (long)(until % NSEC_PER_SEC)};
    // FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC.
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

// ---- members ----

static int member_lock(int fd, int command, uint32_t member, short *type)
{
    struct flock lock = {
        .l_type = *type, .l_whence = SEEK_SET, .l_start = MEMBER_LOCKS + member, .l_len = 1};
    int rc = fcntl(fd, command, &lock) == 0 ? 0 : -errno;
    *type = lock.l_type;
    return rc;
}

static bool member_is_dead(const struct board *b, uint32_t member)
{
    short type = F_WRLCK;
    if (!is_shared(b) || member == b->member)
        return false;
    return member_lock(b->fd, F_OFD_GETLK, member, &type) == 0 && type == F_UNLCK;
}

static int become_member(struct board *b)
{
    for (uint32_t member = 0; b->fd >= 0; member++) {
        short type = F_WRLCK;
        if (member == BOARD_MEMBERS)
            return -ENOSPC;
        int rc = member_lock(b->fd, F_OFD_SETLK, member, &type);
        b->member = member;
        if (rc != -EAGAIN && rc != -EACCES)
            return rc;
    }
    return 0;
}

// ---- a board for oneself ----

// In place of the file, for good: whoever has a pointer to it finds a board that nobody has used.
// Sleepers on the file's words find out when their time is over. In signal context as well.
static bool go_alone(struct board *b)
{
    bool was = false;
    short type = F_UNLCK;
    if (!atomic_compare_exchange_strong(&b->alone, &was, true))
        return true; // another thread does it
    if (mmap(b->memory, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED)
        return false;
    begin_header(b, ALONE_GENERATION);
    member_lock(b->fd, F_OFD_SETLK, b->member, &type); // for the others it's dead
    return true;
}

// A file that somebody makes shorter, or whose file system is full, ends who touches it by SIGBUS,
// and nothing tells before.
static _Atomic(struct board *) watched[BOARDS_OF_FILES];
static struct sigaction former_action;
static pthread_once_t bus_errors_once = PTHREAD_ONCE_INIT;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    (void)context;
    for (unsigned i = 0; i < BOARDS_OF_FILES && info->si_code > 0; i++) {
        struct board *b = atomic_load(&watched[i]);
        size_t offset = b ? (size_t)((char *)info->si_addr - (char *)b->memory) : 0;
        if (b && offset < b->size && go_alone(b)) {
            errno = saved;
            return;
        }
    }
    // Not ours: the access is tried again, for whoever handled this before.
    sigaction(number, &former_action, NULL);
    if (info->si_code <= 0)
        raise(number);
    errno = saved;
}

static void handle_bus_errors(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, &former_action);
}

static int bus_errors_watch(struct board *b, struct error *err)
{
    pthread_once(&bus_errors_once, handle_bus_errors);
    for (unsigned i = 0; i < BOARDS_OF_FILES; i++) {
        struct board *none = NULL;
        if (atomic_compare_exchange_strong(&watched[i], &none, b))
            return 0;
    }
    return error_set(err, EMFILE, "more than %d schedule boards in one process", BOARDS_OF_FILES);
}

static void unmap(struct board *b)
{
    for (unsigned i = 0; i < BOARDS_OF_FILES; i++) {
        struct board *self = b;
        atomic_compare_exchange_strong(&watched[i], &self, NULL);
    }
    if (b->memory)
        munmap(b->memory, b->size);
}

// With no lock held that others need: this may write to a terminal.
static void say_alone(struct board *b)
{
    if (b->alone_is_said || !atomic_load(&b->alone))
        return;
    b->alone_is_said = true;
    log_warning("the schedule board (.cpu-board in the runtime directory) can't be relied on: this "
                "machine leaves it, and shares CPUs with the others as the host likes");
}

// ---- the lock ----

// Whether an area can be used again: nobody holds its lock who may still write to it.
static bool area_is_free(const struct board *b, struct area *area)
{
    uint32_t value = atomic_load(&area->lock);
    if (value && member_is_dead(b, (value & ~WAITERS) - 1))
        atomic_compare_exchange_strong(&area->lock, &value, 0);
    return atomic_load(&area->lock) == 0;
}

static void unlock(struct area *area)
{
    if (atomic_exchange(&area->lock, 0) & WAITERS)
        futex_wake(&area->lock, 1);
}

static void wake_everybody(struct area *area)
{
    futex_wake(&area->lock, INT32_MAX);
    for (uint32_t id = 0; id < BOARD_ENTITIES; id++) {
        atomic_fetch_add(&area->turns[id].word, 1);
        futex_wake(&area->turns[id].word, INT32_MAX);
    }
}

// Leaves a board to who holds its lock and doesn't give it back, or to what it holds. False when
// every area is held like that.
static bool leave_board(struct board *b, uint64_t generation)
{
    for (uint64_t next = generation + 1; next < generation + AREAS; next++) {
        uint64_t expected = generation;
        if (!area_is_free(b, area_of(b, next)))
            continue;
        if (atomic_compare_exchange_strong(&header_of(b)->generation, &expected, next))
            wake_everybody(area_of(b, generation));
        return true;
    }
    return false;
}

// Nobody counts that far: nor is the rest of the file to be relied on.
static void leave_impossible(struct board *b, uint64_t generation)
{
    begin_header(b, 0);
    if (!atomic_compare_exchange_strong(&header_of(b)->generation, &generation, generation % AREAS))
        return; // another one did
    log_warning("the schedule board's head makes no sense: it is begun anew");
    if (++b->nonsense > NONSENSE_MOST)
        go_alone(b);
}

// What it holds makes no sense. The others find the fresh one, or that this one makes none.
static void leave_nonsense(struct board *b, struct area *area, uint64_t generation)
{
    begin_header(b, 0); // perhaps it, too
    unlock(area);
    b->nonsense++;
    log_warning("the schedule board of generation %llu makes no sense: it is left for a fresh one",
                (unsigned long long)generation);
    if (!leave_board(b, generation) || b->nonsense > NONSENSE_MOST)
        go_alone(b);
}

// Waits until the lock was given back once, or the board was left.
static void await_lock(struct board *b, struct area *area, uint64_t generation)
{
    uint32_t holds = atomic_load(&area->holds);
    uint64_t since = clock_monotonic_ns(), now = since;
    for (;;) {
        uint32_t value = atomic_load(&area->lock);
        if (!value || atomic_load(&area->holds) != holds || generation_of(b) != generation)
            return;
        if (value & WAITERS || atomic_compare_exchange_strong(&area->lock, &value, value | WAITERS))
            futex_wait(&area->lock, value | WAITERS, now + DEAD_HOLD_NS);
        now = clock_monotonic_ns();
        bool dead = now - since >= DEAD_HOLD_NS && member_is_dead(b, (value & ~WAITERS) - 1);
        if (atomic_load(&area->holds) != holds)
            return;
        if (is_shared(b) && (dead || now - since >= LONG_HOLD_NS) && !leave_board(b, generation) &&
            now - since >= STUCK_NS)
            go_alone(b);
    }
}

// Who had this member's number before died, perhaps with locks that now seem to be this one's.
static void forget_locks(struct board *b)
{
    for (unsigned i = 1; i <= AREAS && is_shared(b); i++) { // the one that counts comes last
        uint64_t generation = generation_of(b), counts = generation % AREAS;
        struct area *area = area_of(b, counts + i);
        uint32_t value = atomic_load(&area->lock);
        if ((value & ~WAITERS) != b->member + 1)
            continue;
        if (i == AREAS)
            leave_board(b, generation); // half-changed as it is
        atomic_store(&area->lock, 0);
        futex_wake(&area->lock, INT32_MAX);
    }
}

static void set_up(struct board *b, struct area *area, uint64_t generation)
{
    // The words go on from where they are, so that no sleeper misses a change.
    memset(area->owner, 0, sizeof(area->owner));
    memset(area->lease, 0, sizeof(area->lease));
    memset(area->watcher, 0, sizeof(area->watcher));
    memset(area->stretch, 0, sizeof(area->stretch));
    if (area->generation) // else the file's holes are zero already
        memset(area->policy, 0, sched_policy_size(BOARD_ENTITIES));
    sched_policy_init(policy_of(area), BOARD_ENTITIES, BOARD_MEMBERS, &b->cpus);
    area->generation = generation + 1;
}

struct sched_policy *board_lock(struct board *b, uint64_t *generation)
{
    for (;;) {
        uint64_t g = generation_of(b);
        struct area *area = area_of(b, g);
        uint32_t free = 0;
        say_alone(b);
        if (g >= ALONE_GENERATION && is_shared(b)) {
            leave_impossible(b, g);
            continue;
        }
        // With WAITERS after a wait: others may sleep still, and only this word says so.
        bool taken = atomic_compare_exchange_strong(&area->lock, &free, b->member + 1);
        if (!taken) {
            await_lock(b, area, g);
            free = 0;
            taken = atomic_compare_exchange_strong(&area->lock, &free, (b->member + 1) | WAITERS);
        }
        if (!taken)
            continue;
        atomic_fetch_add(&area->holds, 1);
        if (generation_of(b) != g) {
            unlock(area);
            continue;
        }
        if (area->generation != g + 1)
            set_up(b, area, g);
        if (!sched_policy_is_sound(policy_of(area), BOARD_ENTITIES, BOARD_MEMBERS)) {
            leave_nonsense(b, area, g);
            continue;
        }
        b->held = area;
        b->told_count = 0;
        *generation = g;
        return policy_of(area);
    }
}

// ---- grants ----

static void tell(struct board *b, uint32_t id)
{
    _Atomic uint32_t *word = &turn_of(b->held, id)->word;
    atomic_fetch_add(word, 1);
    if (b->told_count < TOLD_LIMIT)
        b->told[b->told_count++] = id;
    else
        futex_wake(word, INT32_MAX);
}

// Up at once, since a lease that is too short costs shares, and slowly down.
void board_ran(struct board *b, uint32_t cpu, uint64_t used, uint64_t passed)
{
    enum { LEAST_NS = 500000, STRETCH_MOST = 256 };
    uint32_t *stretch = &b->held->stretch[cpu % SCHED_CPUS_LIMIT];
    if (used < LEAST_NS)
        return; // too short to tell
    uint64_t sample = passed > used ? (passed - used) * 16 / used : 0;
    if (sample > STRETCH_MOST)
        sample = STRETCH_MOST;
    // Rounded up: else the last sevenths of a busy moment would stay for ever.
    *stretch =
        sample > *stretch ? (uint32_t)sample : *stretch - (*stretch - (uint32_t)sample + 7) / 8;
}

// Of so much CPU time from now on.
static uint64_t lease_end(const struct area *area, uint32_t cpu, uint64_t budget, uint64_t now)
{
    uint64_t length =
        budget + budget * area->stretch[cpu % SCHED_CPUS_LIMIT] / 8; // twice as late as it was
    if (length > LEASE_MOST_NS && length > budget)
        length = budget > LEASE_MOST_NS ? budget : LEASE_MOST_NS;
    return now + length + LEASE_GRACE_NS;
}

void board_give(struct board *b, uint32_t cpu, uint32_t self)
{
    struct sched_grant grant;
    uint64_t now = clock_monotonic_ns();
    if (cpu == SCHED_NONE || !sched_policy_pick(policy_of(b->held), cpu, now, &grant))
        return;
    b->held->lease[cpu % SCHED_CPUS_LIMIT] = lease_end(b->held, cpu, grant.budget, now);
    if (grant.id != self)
        tell(b, grant.id);
}

void board_give_all(struct board *b, uint32_t self)
{
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++)
        if (sched_cpus_has(sched_policy_cpus(policy_of(b->held)), cpu))
            board_give(b, cpu, self);
}

void board_unlock(struct board *b)
{
    struct area *area = b->held;
    uint32_t told[TOLD_LIMIT];
    unsigned count = b->told_count;
    // Copied: what is in the struct is the next holder's as soon as the lock is free.
    memcpy(told, b->told, sizeof(told));
    b->held = NULL;
    unlock(area);
    for (unsigned i = 0; i < count; i++)
        futex_wake(&turn_of(area, told[i])->word, INT32_MAX);
}

uint32_t board_add_group(struct board *b)
{
    uint32_t group = sched_policy_add_group(policy_of(b->held));
    if (group != SCHED_NONE)
        b->held->owner[group % BOARD_MEMBERS] = b->member + 1;
    return group;
}

void board_extend(struct board *b, uint32_t cpu, uint64_t left, uint64_t now)
{
    b->held->lease[cpu % SCHED_CPUS_LIMIT] = lease_end(b->held, cpu, left, now);
}

// ---- who dies, or stands still ----

static void remove_member(struct board *b, uint32_t member, uint64_t now)
{
    struct area *area = b->held;
    for (uint32_t group = 0; group < BOARD_MEMBERS; group++) {
        if (area->owner[group] != member + 1)
            continue;
        sched_policy_remove_group(policy_of(area), group, now);
        area->owner[group] = 0;
    }
}

// The whole machine stands still: none of its vCPUs shall be given a CPU until it asks again.
static void put_group_to_sleep(struct board *b, uint32_t group, uint64_t now)
{
    struct sched_policy *p = policy_of(b->held);
    for (uint32_t id = 0; id < BOARD_ENTITIES; id++) {
        enum sched_state state = sched_policy_state(p, id);
        if ((state != SCHED_WAITING && state != SCHED_THROTTLED) ||
            sched_policy_group(p, id) != group)
            continue;
        sched_policy_suspend(p, id, now);
        tell(b, id); // if it lives after all, it asks now
    }
}

static void take_back(struct board *b, uint32_t cpu, uint64_t now)
{
    struct area *area = b->held;
    struct sched_policy *p = policy_of(area);
    uint32_t id = sched_policy_current(p, cpu), group = sched_policy_group(p, id);
    uint32_t owner = area->owner[group % BOARD_MEMBERS];
    if (owner && member_is_dead(b, owner - 1)) {
        remove_member(b, owner - 1, now);
        return;
    }
    sched_policy_suspend(p, id, now);
    put_group_to_sleep(b, group, now);
}

// Whether what the board says of an entity of this member can be.
static bool knows_entity(const struct board *b, const struct sched_policy *p, uint32_t id)
{
    uint32_t owner = b->held->owner[sched_policy_group(p, id) % BOARD_MEMBERS];
    return sched_policy_state(p, id) != SCHED_FREE && owner == b->member + 1;
}

uint64_t board_watch(struct board *b, uint32_t id, bool begins, uint64_t now)
{
    struct area *area = b->held;
    struct sched_policy *p = policy_of(area);
    uint64_t again = now + LOOK_AGAIN_NS;
    // Who waits has the time for it, and suffers most from what isn't seen otherwise.
    if (now - b->audited >= AUDIT_NS) {
        b->audited = now;
        if (!sched_policy_audit(p) || !knows_entity(b, p, id)) {
            sched_policy_condemn(p);
            return now; // whoever takes the lock next leaves it
        }
    }
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        uint32_t current = sched_policy_current(p, cpu);
        if (!sched_cpus_has(&b->cpus, cpu) || current == SCHED_NONE)
            continue;
        // Nobody is granted a CPU for that long.
        if (now >= area->lease[cpu] || area->lease[cpu] - now > 4 * LEASE_MOST_NS) {
            take_back(b, cpu, now);
            board_give_all(b, SCHED_NONE); // a dead machine's other CPUs as well
            continue;
        }
        if (!sched_policy_may_use(p, id, cpu))
            continue;
        if (begins)
            area->watcher[cpu] = id + 1;
        if (area->watcher[cpu] == id + 1 && area->lease[cpu] < again)
            again = area->lease[cpu];
    }
    return again;
}

// ---- sleeping ----

uint32_t board_turn(struct board *b, uint32_t id)
{
    return atomic_load(&turn_of(b->held, id)->word);
}

void board_wait(struct board *b, uint64_t generation, uint32_t id, uint32_t turn, uint64_t until)
{
    futex_wait(&turn_of(area_of(b, generation), id)->word, turn, until);
}

void board_wake(struct board *b, uint64_t generation, uint32_t id)
{
    struct turn *turn = turn_of(area_of(b, generation), id);
    atomic_fetch_add(&turn->word, 1);
    futex_wake(&turn->word, INT32_MAX);
}

// ---- life ----

// Held while a file is looked at and set up, so that it's done by one at a time.
static int lock_for_joining(const struct board *b, struct error *err)
{
    struct timespec moment = {.tv_nsec = 1000000};
    for (unsigned tries = 0; tries < JOIN_TRIES; tries++) {
        short type = F_WRLCK;
        int rc = member_lock(b->fd, F_OFD_SETLK, JOINING, &type);
        if (rc != -EAGAIN && rc != -EACCES)
            return rc < 0 ? error_set_errno(err, -rc, "locking the schedule board") : 0;
        nanosleep(&moment, NULL);
    }
    return error_set(err, EBUSY,
                     "another machine has been joining the schedule board for several seconds: it "
                     "seems to be stopped");
}

static void unlock_after_joining(const struct board *b)
{
    short type = F_UNLCK;
    member_lock(b->fd, F_OFD_SETLK, JOINING, &type);
}

static bool has_members(const struct board *b)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MEMBER_LOCKS, .l_len = BOARD_MEMBERS};
    return fcntl(b->fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

// Makes the file long enough. What nobody uses is begun anew, whatever it held; what others use
// must be a board of this version.
static int prepare_file(const struct board *b, struct error *err)
{
    struct stat status;
    uint64_t head[2] = {0};
    if (fstat(b->fd, &status) < 0)
        return error_set_errno(err, errno, "the schedule board");
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid())
        return error_set(err, EPERM,
                         "the schedule board (.cpu-board in the runtime directory) is %s: remove "
                         "it, then it is made anew",
                         S_ISREG(status.st_mode) ? "another user's file" : "not a regular file");
    if (!has_members(b) && ftruncate(b->fd, 0) < 0)
        return error_set_errno(err, errno, "emptying the schedule board");
    if (pread(b->fd, head, sizeof(head), 0) < 0)
        return error_set_errno(err, errno, "reading the schedule board");
    if ((head[0] && head[0] != BOARD_MAGIC) || (head[1] && head[1] != BOARD_VERSION))
        return error_set(err, ENOTSUP,
                         "the schedule board is of another version of ferry (%llu, this one is "
                         "%d), whose machines still use it: end them first, or use another "
                         "--runtime-dir",
                         (unsigned long long)head[1], BOARD_VERSION);
    // Never shorter: others have it mapped.
    if (fstat(b->fd, &status) < 0 ||
        ((size_t)status.st_size < b->size && ftruncate(b->fd, (off_t)b->size) < 0))
        return error_set_errno(err, errno, "growing the schedule board");
    return 0;
}

static int map(struct board *b, struct error *err)
{
    b->memory = mmap(NULL, b->size, PROT_READ | PROT_WRITE,
                     b->fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, b->fd, 0);
    if (b->memory == MAP_FAILED) {
        b->memory = NULL;
        return error_set_errno(err, errno, "mapping the schedule board");
    }
    int rc = b->fd < 0 ? 0 : bus_errors_watch(b, err);
    if (rc == 0)
        begin_header(b, 0);
    return rc;
}

static int join_file(struct board *b, struct error *err)
{
    int rc = lock_for_joining(b, err);
    if (rc < 0)
        return rc;
    rc = prepare_file(b, err);
    if (rc == 0)
        rc = map(b, err);
    if (rc == 0) {
        rc = become_member(b);
        if (rc < 0)
            error_set_errno(err, -rc, "joining the schedule board (it has room for %d machines)",
                            BOARD_MEMBERS);
    }
    unlock_after_joining(b);
    return rc;
}

int board_open(struct board **out, int fd, const struct sched_cpus *cpus, struct error *err)
{
    struct board *b = calloc(1, sizeof(*b));
    if (!b) {
        if (fd >= 0)
            close(fd);
        return error_set_errno(err, ENOMEM, "opening the schedule board");
    }
    b->fd = fd;
    b->cpus = *cpus;
    b->size = board_size();
    int rc = fd < 0 ? map(b, err) : join_file(b, err);
    if (rc == 0) {
        // Whoever had this number before is gone: so is all it left.
        uint64_t generation;
        forget_locks(b);
        board_lock(b, &generation);
        remove_member(b, b->member, clock_monotonic_ns());
        board_give_all(b, SCHED_NONE);
        board_unlock(b);
        *out = b;
        return 0;
    }
    unmap(b);
    if (fd >= 0)
        close(fd);
    free(b);
    return rc;
}

void board_close(struct board *b)
{
    if (!b)
        return;
    uint64_t generation;
    board_lock(b, &generation);
    remove_member(b, b->member, clock_monotonic_ns());
    board_give_all(b, SCHED_NONE);
    board_unlock(b);
    unmap(b);
    if (b->fd >= 0)
        close(b->fd); // gives the member's byte back
    free(b);
}
