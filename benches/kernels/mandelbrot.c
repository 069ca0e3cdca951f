// Mandelbrot's set in 64-bit floats: a long chain of arithmetic, no memory.

#include "kernel.h"

enum { SIDE = 128, STEPS = 200 };

static uint64_t kernel(uint64_t round)
{
    uint64_t sum = 0;
    double shift = (double)(round % 16) / 1024;
    for (int row = 0; row < SIDE; row++) {
        for (int column = 0; column < SIDE; column++) {
            double cr = 3.0 * column / SIDE - 2.0 + shift, ci = 2.0 * row / SIDE - 1.0;
            double zr = 0, zi = 0;
            int step = 0;
            for (; step < STEPS && zr * zr + zi * zi < 4; step++) {
                double next = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = next;
            }
            sum += (uint64_t)step;
        }
    }
    return sum;
}
