// What every kernel is made of: a function that works and comes to a checksum, run as often as the
// one argument says. The same file becomes a module and a native program.

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

// Four numbers at once: GCC and Clang lower these to whatever the machine has.
typedef float f32x4 __attribute__((vector_size(16)));

// The work, once. `round` differs from call to call, so that no call can be left out.
static uint64_t kernel(uint64_t round);

// A stream of numbers that look random: xorshift.
static inline uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

// The bits of a double, so that results are compared to the last.
static inline uint64_t bits(double value)
{
    union {
        double value;
        uint64_t bits;
    } both = {value};
    return both.bits;
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], 0, 10) : 1;
    uint64_t sum = 0;
    for (uint64_t round = 0; round < rounds; round++)
        sum = sum * 31 + kernel(round);

    char text[17];
    for (int at = 0; at < 16; at++)
        text[at] = "0123456789abcdef"[sum >> (60 - 4 * at) & 15];
    text[16] = '\n';
    return write(1, text, sizeof text) == sizeof text ? 0 : 1;
}
