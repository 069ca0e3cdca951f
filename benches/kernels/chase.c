// A walk through a random cycle of 4 M entries in 16 MB: each step waits for memory.

#include "kernel.h"

enum { ENTRIES = 4 << 20, STEPS = 4 << 20 };

static uint32_t to[ENTRIES];

static uint64_t kernel(uint64_t round)
{
    static uint32_t at;
    if (to[0] == to[1]) {
        // Sattolo's shuffle: one cycle through all.
        uint64_t state = 1;
        for (uint32_t i = 0; i < ENTRIES; i++)
            to[i] = i;
        for (uint32_t i = ENTRIES - 1; i > 0; i--) {
            uint32_t other = (uint32_t)(next(&state) % i), kept = to[i];
            to[i] = to[other];
            to[other] = kept;
        }
    }
    for (int i = 0; i < STEPS; i++)
        at = to[at];
    return at + round;
}
