// Prints 16 hexadecimal digits of pi, the first at POSITION (1 is the first after the point),
// without computing those before it: the formula of Bailey, Borwein and Plouffe,
//
//     pi = sum over k of 16^-k (4 / (8k+1) - 2 / (8k+4) - 1 / (8k+5) - 1 / (8k+6)).
//
// Times 16^(POSITION - 1), whole parts dropped, it is the digits wanted; and the whole part of
// 16^e / m is dropped by taking 16^e modulo m first. All of it is integers: a fraction is a
// multiple of 2^-128 that wraps at 1, so every machine prints the same, and the error has a strict
// bound.

#include "../numbers.h"

static const char USAGE[] = "pi POSITION";

enum {
    // Keeps every divisor 8k + 6 below 2^30, which `power_of_16` and `quotient` rely on.
    POSITION_MAX = 100000000,
    DIGITS = 16,
    // From 16^-32 on, a term is below 2^-128.
    TAIL_TERMS = 31,
};

// A fraction of 1 in units of 2^-128.
typedef unsigned __int128 fraction;

// 16^exponent modulo m, for m below 2^30: then the square times 16 is below 2^64.
static uint64_t power_of_16(uint32_t exponent, uint64_t m)
{
    uint64_t power = 1 % m;
    if (exponent == 0)
        return power;
    for (int bit = 31 - __builtin_clz(exponent); bit >= 0; bit--)
        power = (power * power << (exponent >> bit & 1 ? 4 : 0)) % m;
    return power;
}

// dividend / m, rounded down, for dividend < m < 2^32: long division, 32 bits at a time.
static fraction quotient(uint64_t dividend, uint64_t m)
{
    fraction result = 0;
    for (int i = 0; i < 4; i++) {
        dividend <<= 32;
        result = result << 32 | dividend / m;
        dividend %= m;
    }
    return result;
}

// The fraction of the sum over k of 16^(n - k) / (8k + j). Each of its n + 1 + TAIL_TERMS terms is
// too low by less than one unit, and so is the sum for want of all the terms after those.
static fraction series(uint32_t n, uint32_t j)
{
    fraction sum = 0;
    for (uint32_t k = 0; k <= n; k++)
        sum += quotient(power_of_16(n - k, 8 * k + j), 8 * k + j);
    for (uint32_t i = 1; i <= TAIL_TERMS; i++)
        sum += quotient(1, 8 * (n + i) + j) >> 4 * i;
    return sum;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        refuse_call(USAGE);
    uint32_t n = (uint32_t)read_number(argv[1], "POSITION", 1, POSITION_MAX, USAGE) - 1;

    fraction sum = 4 * series(n, 1) - 2 * series(n, 4) - series(n, 5) - series(n, 6);
    // A series is too low by less than n + 2 + TAIL_TERMS units; 4 count for the sum, 4 against.
    fraction error = 4 * ((fraction)n + 2 + TAIL_TERMS);
    uint64_t digits = (uint64_t)(sum >> 64);
    if ((uint64_t)((sum - error) >> 64) != digits || (uint64_t)((sum + error) >> 64) != digits) {
        // At most once in 2^34 positions: the next 16 digits or so are all 0 or all F.
        fputs("128 bits do not settle these digits; ask for a position a little lower\n", stderr);
        return EXIT_NOT_WRITTEN;
    }

    for (int i = 1; i <= DIGITS; i++)
        putchar("0123456789ABCDEF"[digits >> (64 - 4 * i) & 15]);
    putchar('\n');
    return written();
}
