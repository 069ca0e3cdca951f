// Tests whether 2^p - 1 is prime, for each exponent p among the arguments, or, if there are none,
// on each line of standard input: the Lucas-Lehmer test, s = 4, then p - 2 times s = s^2 - 2 modulo
// 2^p - 1, which ends at 0 just for the primes. For the others the last 64 bits of s are the usual
// witness by which two computations of it are compared.

#include <stdbool.h>
#include <string.h>

#include "../numbers.h"

static const char USAGE[] = "lucas [EXPONENT...], or an exponent per line on standard input";

enum {
    EXPONENT_MAX = 100000,
    // A column of a product adds up as many squares of limbs as there are limbs. With 26 bits, 4096
    // of them fit in 64, so that nothing is carried in the inner loop.
    LIMB_BITS = 26,
    LIMB_MASK = (1 << LIMB_BITS) - 1,
    LIMBS_MAX = (EXPONENT_MAX + LIMB_BITS - 1) / LIMB_BITS,
    // A longer line can't be an exponent.
    LINE_BYTES_MAX = 32,
};
_Static_assert(LIMBS_MAX < 1 << (64 - 2 * LIMB_BITS), "a column of a product overflows 64 bits");

// Little-endian. The square stays here between its making and its folding.
static uint32_t residue[LIMBS_MAX];
static uint32_t square[2 * LIMBS_MAX];

// The sum of the products of all pairs of limbs whose indices add up to `column`.
static uint64_t column_sum(int limbs, int column)
{
    int low = column < limbs ? 0 : column - limbs + 1;
    int high = column - low;
    uint64_t sum = 0;
    for (; low < high; low++, high--)
        sum += (uint64_t)residue[low] * residue[high];
    sum *= 2;
    return low == high ? sum + (uint64_t)residue[low] * residue[low] : sum;
}

static void square_residue(int limbs)
{
    uint64_t carry = 0;
    for (int column = 0; column < 2 * limbs - 1; column++) {
        carry += column_sum(limbs, column);
        square[column] = carry & LIMB_MASK;
        carry >>= LIMB_BITS;
    }
    square[2 * limbs - 1] = (uint32_t)carry;
}

// residue = square - 2 modulo 2^p - 1. What is above bit p is added below, since 2^p is 1 there.
static void fold_square(int limbs, int p)
{
    int top_bits = p - LIMB_BITS * (limbs - 1);
    uint32_t top_mask = (uint32_t)((1 << top_bits) - 1);
    int64_t carry = -2;
    for (int i = 0; i < limbs; i++) {
        uint64_t pair = square[limbs - 1 + i] | (uint64_t)square[limbs + i] << LIMB_BITS;
        uint32_t low = i == limbs - 1 ? square[i] & top_mask : square[i];
        carry += low + (int64_t)(pair >> top_bits & LIMB_MASK);
        residue[i] = carry & LIMB_MASK;
        carry >>= LIMB_BITS;
    }
    // What went over bit p, or was borrowed there, comes back at the bottom until nothing does.
    do {
        carry = carry * (1 << (LIMB_BITS - top_bits)) + (residue[limbs - 1] >> top_bits);
        residue[limbs - 1] &= top_mask;
        for (int i = 0; i < limbs && carry != 0; i++) {
            carry += residue[i];
            residue[i] = carry & LIMB_MASK;
            carry >>= LIMB_BITS;
        }
    } while (carry != 0 || residue[limbs - 1] > top_mask);
}

// Whether the residue is 0, which 2^p - 1, all ones, is too.
static bool is_zero(int limbs, int p)
{
    uint32_t top_mask = (uint32_t)((1 << (p - LIMB_BITS * (limbs - 1))) - 1);
    bool zeros = true;
    bool ones = true;
    for (int i = 0; i < limbs; i++) {
        zeros &= residue[i] == 0;
        ones &= residue[i] == (i == limbs - 1 ? top_mask : (uint32_t)LIMB_MASK);
    }
    return zeros || ones;
}

static void put_res64(int limbs)
{
    uint64_t low = 0;
    for (int i = 0; i < limbs && LIMB_BITS * i < 64; i++)
        low |= (uint64_t)residue[i] << LIMB_BITS * i;
    int shift = 60;
    while (shift > 0 && low >> shift == 0)
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        putchar("0123456789abcdef"[low >> shift & 15]);
}

static void test(int p)
{
    int limbs = (p + LIMB_BITS - 1) / LIMB_BITS;
    memset(residue, 0, sizeof residue);
    residue[0] = 4;
    for (int i = 0; i < p - 2; i++) {
        square_residue(limbs);
        fold_square(limbs, p);
    }

    putchar('M');
    put_number((uint64_t)p, stdout);
    // The test is for odd exponents; 2^2 - 1 is 3.
    if (p == 2 || is_zero(limbs, p)) {
        puts(" prime");
    } else {
        fputs(" composite res64 ", stdout);
        put_res64(limbs);
        putchar('\n');
    }
}

static void test_text(const char *text)
{
    test((int)read_number(text, "EXPONENT", 2, EXPONENT_MAX, USAGE));
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        test_text(argv[i]);

    char line[LINE_BYTES_MAX + 1];
    int lines = 0;
    while (argc == 1 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        test_text(line);
        lines++;
    }
    if (argc == 1 && lines == 0)
        refuse_call(USAGE);
    return written();
}
