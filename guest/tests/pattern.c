// pattern: each vCPU walks its part of a range and adds 1 to the first byte of each page, for ever:
// whenever the machine is stopped, the first bytes of a part have at most one edge, of height one
// (counted modulo 256). A lost page, an old page or a page in a wrong place breaks that.
// docs/guest.md says what lies where for a check from outside.
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pace.h"
#include "guest/lib/time.h"
#include "guest/tests/range.h"
#include "guest/tests/test.h"

#define PATTERN_MAGIC 0x5059525245460001ul // "..FERRYP"

// At offset 64 of a part's first page: off the stride, so it tells how far the walk got without
// disturbing the edge.
struct marker {
    uint64_t magic;
    uint64_t cpu;
    uint64_t pages;
    uint64_t pass;     // complete passes
    uint64_t position; // pages of this pass done, never more than really are
};

// The rest of a page: its own address, and with fill=random noise that follows from the address.
struct page {
    uint8_t count, unused[7];
    uint64_t address;
    uint64_t words[(PAGE_BYTES - 16) / 8];
};
enum {
    NOISE_FIRST = 16, // the marker's words stay free in every page
    NOISE_END = (PAGE_BYTES - 16) / 8,
    PAGES_A_MARK = 64,
};

struct walk {
    struct range part;
    uint64_t end; // TSC, 0: never
    uint64_t rate, check_every;
    uint64_t spoil_after; // passes; 0: never. Makes one page lag, for tests of the check.
    bool noise;
    volatile bool failed;
    volatile uint64_t passes;
};

static volatile bool stopping; // one vCPU found an error, or the time is over

static struct marker *walk_marker(const struct walk *walk)
{
    return (struct marker *)(walk->part.start + 64);
}

static uint64_t noise_next(uint64_t state)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^ state << 17;
}

static void page_fill(struct page *page, bool noise)
{
    page->count = 0;
    page->address = (uint64_t)page;
    uint64_t state = (uint64_t)page;
    for (unsigned i = NOISE_FIRST; noise && i < NOISE_END; i++)
        page->words[i] = state = noise_next(state);
}

static bool page_holds(const volatile struct page *page, uint8_t count, bool noise)
{
    if (page->count != count || page->address != (uint64_t)page) {
        console_line("pattern error gpa=0x%lx count=%u expected=%u address=0x%lx", (uint64_t)page,
                     page->count, count, page->address);
        return false;
    }
    uint64_t state = (uint64_t)page;
    for (unsigned i = NOISE_FIRST; noise && i < NOISE_END; i++) {
        state = noise_next(state);
        if (page->words[i] == state)
            continue;
        console_line("pattern error gpa=0x%lx word=%u value=0x%lx expected=0x%lx", (uint64_t)page,
                     i, page->words[i], state);
        return false;
    }
    return true;
}

static void walk_prepare(void *argument)
{
    struct walk *walk = argument;
    struct page *pages = (struct page *)walk->part.start;
    for (uint64_t i = 0; i < walk->part.pages; i++)
        page_fill(&pages[i], walk->noise);
    *walk_marker(walk) = (struct marker){
        .magic = PATTERN_MAGIC, .cpu = this_cpu()->index, .pages = walk->part.pages};
}

static void walk_pass(struct walk *walk, struct pace *pace)
{
    volatile struct page *pages = (volatile struct page *)walk->part.start;
    volatile struct marker *marker = walk_marker(walk);
    uint64_t slice = pace_slice(pace, PAGE_BYTES) / PAGE_BYTES;
    for (uint64_t i = 0; i < walk->part.pages;) {
        uint64_t end = i + slice < walk->part.pages ? i + slice : walk->part.pages, first = i;
        for (; i < end; i++) {
            pages[i].count++;
            if (i % PAGES_A_MARK == PAGES_A_MARK - 1)
                marker->position = i + 1;
        }
        pace_wait(pace, (end - first) * PAGE_BYTES);
    }
    marker->position = walk->part.pages;
}

static bool walk_check(const struct walk *walk, uint64_t pass)
{
    const struct page *pages = (const struct page *)walk->part.start;
    for (uint64_t i = 0; i < walk->part.pages; i++)
        if (!page_holds(&pages[i], (uint8_t)pass, walk->noise))
            return false;
    return true;
}

static void walk_report(const struct walk *walks, unsigned cpus, uint64_t start)
{
    uint64_t least = ~0ul, pages = 0;
    for (unsigned i = 0; i < cpus; i++) {
        if (walks[i].passes < least)
            least = walks[i].passes;
        pages += walks[i].passes * walks[i].part.pages;
    }
    console_line("pattern passes=%lu pages=%lu ms=%lu", least, pages,
                 time_tsc_to_ns(time_tsc() - start) / 1000000);
}

static unsigned walk_count;

static void walk_job(void *argument)
{
    struct walk *walk = argument;
    bool reports = this_cpu()->index == 0;
    struct pace pace;
    pace_start(&pace, walk->rate);
    volatile struct marker *marker = walk_marker(walk);
    uint64_t start = time_tsc(), next = start;
    uint64_t interval = time_ns_to_tsc(option_number("report", 1) * 1000000000);
    while (!stopping) {
        walk_pass(walk, &pace);
        walk->passes++;
        if (walk->passes == walk->spoil_after)
            *(volatile uint8_t *)(walk->part.start + walk->part.pages / 2 * PAGE_BYTES) -= 1;
        marker->pass = walk->passes;
        marker->position = 0;
        if (walk->check_every && walk->passes % walk->check_every == 0 &&
            !walk_check(walk, walk->passes)) {
            walk->failed = true;
            stopping = true;
        }
        uint64_t now = time_tsc();
        if (reports && interval && now - next >= interval) {
            next = now;
            walk_report(walk, walk_count, start);
        }
        if (walk->end && now >= walk->end)
            stopping = true;
    }
}

bool test_pattern(void)
{
    static struct walk walks[CPU_MAX];
    unsigned cpus = cpu_start_all();
    struct range range;
    if (!range_take(&range, 64ul << 20) || range.pages < cpus)
        return false;
    uint64_t seconds = option_number("seconds", 0);
    walk_count = cpus;
    for (unsigned i = 0; i < cpus; i++)
        walks[i] = (struct walk){
            .part = range_part(&range, i, cpus),
            .rate = option_number("rate", 0) * 1000000 / cpus,
            .check_every = option_number("check", 1),
            .spoil_after = i == 0 ? option_number("spoil", 0) : 0,
            .noise = option_is("fill", "random"),
        };
    cpu_run(cpus, walk_prepare, walks, sizeof(walks[0]));
    for (unsigned i = 0; i < cpus; i++) {
        console_line("pattern cpu=%u gpa=0x%lx pages=%lu stride=%u", i, walks[i].part.start,
                     walks[i].part.pages, PAGE_BYTES);
        walks[i].end = seconds ? time_tsc() + time_ns_to_tsc(seconds * 1000000000) : 0;
    }
    console_line("pattern ready gpa=0x%lx pages=%lu", range.start, range.pages);
    cpu_run(cpus, walk_job, walks, sizeof(walks[0]));

    bool passed = true;
    uint64_t pages = 0;
    for (unsigned i = 0; i < cpus; i++) {
        passed &= !walks[i].failed;
        pages += walks[i].passes * walks[i].part.pages;
    }
    test_summary("cpus=%u pages=%lu", cpus, pages);
    return passed;
}
