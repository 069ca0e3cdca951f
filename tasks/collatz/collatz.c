// Finds the start in [START, START + LENGTH) whose Collatz trajectory is the longest, and prints it
// with its steps down to 1; both the tripling and the halving steps count. Of equals, the smallest
// start wins, so that the answer is the same however an interval is cut.

#include "../numbers.h"

static const char USAGE[] = "collatz START LENGTH";

// No trajectory that starts below this leaves 64 bits, so that the loop need not look: the highest
// is that of 8528817511, whose peak of 18144594937356598024 is just below 2^64 (OEIS A006884 and
// A006885). The next record, of 12327829503, is above.
static const uint64_t END_MAX = 10000000000;

static unsigned steps(uint64_t n)
{
    // All halvings in a row are one shift.
    unsigned halvings = (unsigned)__builtin_ctzll(n);
    unsigned taken = halvings;
    n >>= halvings;
    while (n != 1) {
        n = 3 * n + 1;
        halvings = (unsigned)__builtin_ctzll(n);
        n >>= halvings;
        taken += 1 + halvings;
    }
    return taken;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        refuse_call(USAGE);
    uint64_t start = read_number(argv[1], "START", 1, END_MAX - 1, USAGE);
    uint64_t length = read_number(argv[2], "LENGTH", 1, END_MAX - start, USAGE);

    uint64_t longest = start;
    unsigned most = steps(start);
    for (uint64_t n = start + 1; n < start + length; n++) {
        unsigned taken = steps(n);
        if (taken > most) {
            most = taken;
            longest = n;
        }
    }

    put_number(longest, stdout);
    putchar(' ');
    put_number(most, stdout);
    putchar('\n');
    return written();
}
