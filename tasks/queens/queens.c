// Counts the ways to put N queens on an N x N board so that none attacks another, in those boards
// whose first two rows belong to part PART of PARTS: the parts add up to the whole count.

#include "../numbers.h"

static const char USAGE[] = "queens N PART PARTS";

enum {
    // The largest board whose count anybody has published; also, it fits 64 bits.
    N_MAX = 27,
    // Far above the (N - 1)(N - 2) ways to fill two rows; parts beyond those count 0.
    PARTS_MAX = 1000000,
};

// The ways to fill the remaining rows. A bit of `columns` is a column that is taken; of `left` and
// `right`, a square of the next row that a diagonal reaches.
static uint64_t fill(uint32_t board, uint32_t columns, uint32_t left, uint32_t right)
{
    if (columns == board)
        return 1;
    uint64_t ways = 0;
    for (uint32_t free = board & ~(columns | left | right); free != 0; free &= free - 1) {
        uint32_t queen = free & -free;
        ways += fill(board, columns | queen, (left | queen) << 1, (right | queen) >> 1);
    }
    return ways;
}

static uint64_t count_part(unsigned n, uint64_t part, uint64_t parts)
{
    uint32_t board = (1u << n) - 1;
    uint64_t ways = 0;
    uint64_t pair = 0;
    for (unsigned a = 0; a < n; a++)
        for (unsigned b = 0; b < n; b++) {
            if (a <= b + 1 && b <= a + 1)
                continue;
            // Every parts-th pair, not a run of them: queens near the middle leave more work, and
            // so each part gets its share of those.
            if (pair++ % parts != part)
                continue;
            uint32_t first = 1u << a;
            uint32_t second = 1u << b;
            ways += fill(board, first | second, (first << 1 | second) << 1,
                         (first >> 1 | second) >> 1);
        }
    return ways;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        refuse_call(USAGE);
    unsigned n = (unsigned)read_number(argv[1], "N", 2, N_MAX, USAGE);
    uint64_t parts = read_number(argv[3], "PARTS", 1, PARTS_MAX, USAGE);
    uint64_t part = read_number(argv[2], "PART", 0, parts - 1, USAGE);
    put_number(count_part(n, part, parts), stdout);
    putchar('\n');
    return written();
}
