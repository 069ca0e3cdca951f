// Products of 64 by 64 bits in 128, as in hashes and random number generators.

#include "kernel.h"

static uint64_t kernel(uint64_t round)
{
    uint64_t a = round + 0x9e3779b97f4a7c15, sum = 0;
    for (int i = 0; i < 100000; i++) {
        a += 0xa0761d6478bd642f;
        unsigned __int128 product = (unsigned __int128)a * (a ^ 0xe7037ed1a0b428db);
        sum ^= (uint64_t)(product >> 64) ^ (uint64_t)product;
    }
    return sum;
}
