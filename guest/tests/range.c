#include "guest/tests/range.h"

#include "guest/lib/console.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"

bool range_take(struct range *range, uint64_t default_size)
{
    enum { SPARE = 1 << 20 }; // stays for what the test allocates later
    uint64_t largest = pages_largest();
    uint64_t most = largest > 2 * SPARE ? largest - SPARE : largest;
    uint64_t size = option_number("size", default_size < most ? default_size : most);
    if (option_is("size", "max"))
        size = most;
    size &= -(uint64_t)PAGE_BYTES;
    uint64_t start = option_number("gpa", 0);
    if (!start)
        start = (uint64_t)pages_allocate(size, PAGE_BYTES);
    else if (!pages_take(start, size))
        start = 0;
    if (!start || !size) {
        console_line("range gpa=0x%lx size=0x%lx isn't free RAM in one piece (largest 0x%lx)",
                     option_number("gpa", 0), size, largest);
        return false;
    }
    range->start = start;
    range->pages = size / PAGE_BYTES;
    return true;
}

struct range range_part(const struct range *range, unsigned index, unsigned count)
{
    uint64_t part = range->pages / count, first = part * index;
    return (struct range){
        .start = range->start + first * PAGE_BYTES,
        .pages = index + 1 == count ? range->pages - first : part,
    };
}
