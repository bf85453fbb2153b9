#include "guest/lib/pace.h"

#include "guest/lib/arithmetic.h"
#include "guest/lib/time.h"

enum {
    SLICES_A_SECOND = 1000,
    FREE_SLICE = 1 << 20,
};

void pace_start(struct pace *pace, uint64_t bytes_per_second)
{
    *pace = (struct pace){.bytes_per_second = bytes_per_second, .start = time_tsc()};
}

uint64_t pace_slice(const struct pace *pace, uint64_t least)
{
    uint64_t slice = pace->bytes_per_second ? pace->bytes_per_second / SLICES_A_SECOND : FREE_SLICE;
    return slice < least ? least : slice;
}

void pace_wait(struct pace *pace, uint64_t bytes)
{
    if (!pace->bytes_per_second)
        return;
    pace->due += bytes;
    uint64_t tsc = pace->start + multiply_divide(pace->due, time_tsc_hz(), pace->bytes_per_second);
    uint64_t now = time_tsc();
    if (now > tsc + time_tsc_hz() / 10) {
        pace->start = now;
        pace->due = 0;
        return;
    }
    while (time_sleep_until(tsc) < tsc)
        ;
}
