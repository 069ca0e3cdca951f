// The inner part of SHA-256 over a mebibyte: integer arithmetic and rotations.

#include "kernel.h"

enum { BLOCKS = 16384 };

static uint32_t constants[64];

static inline uint32_t rotate(uint32_t value, int by)
{
    return value >> by | value << (32 - by);
}

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes, in integers:
// the largest r with r^3 <= prime * 2^96 has them as its lowest bits.
static void prepare(void)
{
    for (int count = 0, number = 2; count < 64; number++) {
        int is_prime = 1;
        for (int divisor = 2; divisor * divisor <= number; divisor++)
            is_prime &= number % divisor != 0;
        if (!is_prime)
            continue;
        uint64_t whole = 1;
        while ((whole + 1) * (whole + 1) * (whole + 1) <= (uint64_t)number)
            whole++;
        unsigned __int128 root = (unsigned __int128)whole << 32;
        for (int bit = 31; bit >= 0; bit--) {
            unsigned __int128 trial = root | (unsigned __int128)1 << bit;
            // trial < 2^35, so its square has 70 bits and its cube 105.
            if (trial * trial * trial <= (unsigned __int128)number << 96)
                root = trial;
        }
        constants[count++] = (uint32_t)root;
    }
}

static void compress(uint32_t hash[8], const uint32_t block[16])
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = block[i];
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) +
               (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
    }
    uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3];
    uint32_t e = hash[4], f = hash[5], g = hash[6], h = hash[7];
    for (int i = 0; i < 64; i++) {
        uint32_t first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                         ((e & f) ^ (~e & g)) + constants[i] + w[i];
        uint32_t second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                          ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first;
        d = c, c = b, b = a, a = first + second;
    }
    hash[0] += a, hash[1] += b, hash[2] += c, hash[3] += d;
    hash[4] += e, hash[5] += f, hash[6] += g, hash[7] += h;
}

static uint64_t kernel(uint64_t round)
{
    if (constants[0] == 0)
        prepare();
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t block[16] = {(uint32_t)round};
    for (uint32_t i = 0; i < BLOCKS; i++) {
        block[15] = i;
        compress(hash, block);
    }
    return (uint64_t)hash[0] << 32 | hash[7];
}
