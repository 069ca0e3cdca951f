// The product of two matrices of 32-bit floats, four columns at a time.

#include "kernel.h"

enum { SIDE = 128 };

static f32x4 a[SIDE][SIDE / 4], b[SIDE][SIDE / 4], product[SIDE][SIDE / 4];

static void fill(f32x4 matrix[SIDE][SIDE / 4], uint64_t state)
{
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++)
            matrix[row][column / 4][column % 4] = (float)(next(&state) % 256) / 64;
}

static uint64_t kernel(uint64_t round)
{
    fill(a, 2 * round + 1);
    fill(b, 2 * round + 2);
    for (int row = 0; row < SIDE; row++) {
        for (int column = 0; column < SIDE / 4; column++) {
            f32x4 sum = {0, 0, 0, 0};
            for (int k = 0; k < SIDE; k++) {
                float factor = a[row][k / 4][k % 4];
                sum += (f32x4){factor, factor, factor, factor} * b[k][column];
            }
            product[row][column] = sum;
        }
    }
    double sum = 0;
    for (int row = 0; row < SIDE; row++)
        sum += product[row][row / 4][row % 4];
    return bits(sum);
}
