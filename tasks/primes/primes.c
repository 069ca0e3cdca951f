// Counts the primes in [START, START + LENGTH): a segmented sieve of Eratosthenes.
//
// A byte stands for 30 numbers and its bits for the 8 of them that 2, 3 and 5 do not divide, so a
// segment that fits a processor's first cache covers a million numbers. Nothing else is kept but
// the same kind of bitmap of the primes up to the root of the end: 70 KB in all, wherever START is.

#include <stdalign.h>
#include <string.h>

#include "../numbers.h"

static const char USAGE[] = "primes START LENGTH";

enum {
    // The bits that 7, 11 and 13 leave repeat after this many bytes.
    PATTERN_BYTES = 7 * 11 * 13,
    // The least multiple of the pattern whose bitmap reaches the root of END_MAX: 1,021,020.
    SEGMENT_BYTES = 34 * PATTERN_BYTES,
    // Counting reads 8 bytes at a time.
    PADDED_BYTES = (SEGMENT_BYTES + 7) / 8 * 8,
};

static const uint64_t END_MAX = 1000000000000;

// The numbers below 30 that 2, 3 and 5 do not divide, in the order of the bits.
static const uint8_t RESIDUES[8] = {1, 7, 11, 13, 17, 19, 23, 29};

static uint8_t pattern[PATTERN_BYTES];
static uint8_t small[PADDED_BYTES];
static alignas(8) uint8_t segment[PADDED_BYTES];

// The bits of a byte that stand for residues below `residue`.
static uint8_t bits_below(unsigned residue)
{
    unsigned bits = 0;
    for (unsigned bit = 0; bit < 8; bit++)
        bits |= (unsigned)(RESIDUES[bit] < residue) << bit;
    return (uint8_t)bits;
}

// Clears the multiples of `p` whose cofactor is at least `factor_min`, in `bytes` bytes of which
// the first stands for the numbers from 30 * `first` on.
static void cross_off(uint8_t *bits, uint64_t first, uint32_t bytes, uint32_t p,
                      uint64_t factor_min)
{
    uint64_t least = (30 * first + p - 1) / p;
    if (least < factor_min)
        least = factor_min;
    for (int i = 0; i < 8; i++) {
        uint64_t factor = least / 30 * 30 + RESIDUES[i];
        if (factor < least)
            factor += 30;
        // Thirty cofactors further on is p bytes further on, in the same bit.
        uint64_t product = factor * p;
        uint8_t keep = (uint8_t)~(1u << (product % 30 * 8 / 30)); // the index in RESIDUES
        for (uint32_t at = (uint32_t)(product / 30 - first); at < bytes; at += p)
            bits[at] &= keep;
    }
}

// Starts `bits` with the multiples of 7, 11 and 13 gone; `first` is a multiple of PATTERN_BYTES.
static void start_segment(uint8_t *bits, uint64_t first)
{
    for (int at = 0; at < SEGMENT_BYTES; at += PATTERN_BYTES)
        memcpy(bits + at, pattern, PATTERN_BYTES);
    if (first == 0)
        bits[0] &= (uint8_t)~1; // the number 1
}

// Crosses off the multiples of all primes from 17 on that are in `small` and whose square is in
// the segment or before it.
static void sieve(uint8_t *bits, uint64_t first, uint32_t bytes)
{
    uint64_t end = 30 * (first + bytes);
    for (uint32_t at = 0; at < SEGMENT_BYTES; at++)
        for (unsigned left = small[at]; left != 0; left &= left - 1) {
            uint32_t p = 30 * at + RESIDUES[__builtin_ctz(left)];
            if ((uint64_t)p * p >= end)
                return;
            cross_off(bits, first, bytes, p, p);
        }
}

static void make_pattern_and_small_primes(void)
{
    memset(pattern, 0xff, PATTERN_BYTES);
    cross_off(pattern, 0, PATTERN_BYTES, 7, 1);
    cross_off(pattern, 0, PATTERN_BYTES, 11, 1);
    cross_off(pattern, 0, PATTERN_BYTES, 13, 1);
    // A prime that `sieve` takes from `small` is below the root of the end of `small`, and whatever
    // is below the square of the last one it took is already final: it may sieve its own source.
    start_segment(small, 0);
    sieve(small, 0, SEGMENT_BYTES);
}

// The bits left in the segment that stand for numbers in [start, end).
static uint64_t count(uint64_t first, uint32_t bytes, uint64_t start, uint64_t end)
{
    if (start > 30 * first) {
        uint64_t at = start / 30 - first;
        memset(segment, 0, at);
        segment[at] &= (uint8_t)~bits_below((unsigned)(start % 30));
    }
    if (end < 30 * (first + bytes))
        segment[bytes - 1] &= bits_below((unsigned)(end % 30));
    memset(segment + bytes, 0, PADDED_BYTES - bytes);

    uint64_t total = 0;
    for (uint32_t at = 0; at < bytes; at += 8) {
        uint64_t word;
        memcpy(&word, segment + at, 8);
        total += (uint64_t)__builtin_popcountll(word);
    }
    return total;
}

static uint64_t count_primes(uint64_t start, uint64_t end)
{
    static const uint8_t NOT_IN_THE_BITMAP[] = {2, 3, 5, 7, 11, 13};
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof NOT_IN_THE_BITMAP; i++)
        total += NOT_IN_THE_BITMAP[i] >= start && NOT_IN_THE_BITMAP[i] < end;

    make_pattern_and_small_primes();
    uint64_t last = end / 30;
    // From a multiple of the pattern, so that each segment starts with a whole one.
    for (uint64_t first = start / 30 / PATTERN_BYTES * PATTERN_BYTES; first <= last;
         first += SEGMENT_BYTES) {
        uint64_t rest = last + 1 - first;
        uint32_t bytes = rest < SEGMENT_BYTES ? (uint32_t)rest : SEGMENT_BYTES;
        start_segment(segment, first);
        sieve(segment, first, bytes);
        total += count(first, bytes, start, end);
    }
    return total;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        refuse_call(USAGE);
    uint64_t start = read_number(argv[1], "START", 0, END_MAX - 1, USAGE);
    uint64_t length = read_number(argv[2], "LENGTH", 1, END_MAX - start, USAGE);
    put_number(count_primes(start, start + length), stdout);
    putchar('\n');
    return written();
}
