// The primes below sixteen million by sieving: stores all over 16 MB.

#include "kernel.h"

enum { LIMIT = 16000000 };

static uint8_t composite[LIMIT];

static uint64_t kernel(uint64_t round)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < LIMIT; i++)
        composite[i] = 0;
    for (uint32_t i = 2; i < LIMIT; i++) {
        if (composite[i])
            continue;
        count += i ^ round;
        for (uint64_t multiple = (uint64_t)i * i; multiple < LIMIT; multiple += i)
            composite[multiple] = 1;
    }
    return count;
}
