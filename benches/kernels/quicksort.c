// Sorting by a comparison that is known only at run time: a call through a pointer each.

#include "kernel.h"

enum { LENGTH = 100000 };

typedef int comparison(uint64_t, uint64_t);

static int ascending(uint64_t a, uint64_t b)
{
    return a < b;
}

static int descending(uint64_t a, uint64_t b)
{
    return a > b;
}

static comparison *volatile const orders[] = {ascending, descending};

static void sort(uint64_t *from, uint64_t *to, comparison *before)
{
    while (to - from > 1) {
        uint64_t pivot = from[(to - from) / 2];
        uint64_t *low = from, *high = to - 1;
        while (low <= high) {
            while (before(*low, pivot))
                low++;
            while (before(pivot, *high))
                high--;
            if (low <= high) {
                uint64_t kept = *low;
                *low++ = *high;
                *high-- = kept;
            }
        }
        sort(from, high + 1, before);
        from = low;
    }
}

static uint64_t kernel(uint64_t round)
{
    static uint64_t numbers[LENGTH];
    uint64_t state = round + 1;
    for (int i = 0; i < LENGTH; i++)
        numbers[i] = next(&state);
    sort(numbers, numbers + LENGTH, orders[round % 2]);
    return numbers[0] ^ numbers[LENGTH / 2];
}
