// Five bodies that attract each other, in 64-bit floats: divisions, roots and a little memory.

#include "kernel.h"

enum { BODIES = 5, STEPS = 1000 };

typedef struct {
    double x, y, z, vx, vy, vz, mass;
} body;

static void step(body *bodies, double time)
{
    for (int i = 0; i < BODIES; i++) {
        for (int j = i + 1; j < BODIES; j++) {
            body *a = &bodies[i], *b = &bodies[j];
            double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
            double square = dx * dx + dy * dy + dz * dz;
            double force = time / (square * __builtin_sqrt(square));
            a->vx -= dx * b->mass * force;
            a->vy -= dy * b->mass * force;
            a->vz -= dz * b->mass * force;
            b->vx += dx * a->mass * force;
            b->vy += dy * a->mass * force;
            b->vz += dz * a->mass * force;
        }
    }
    for (int i = 0; i < BODIES; i++) {
        bodies[i].x += time * bodies[i].vx;
        bodies[i].y += time * bodies[i].vy;
        bodies[i].z += time * bodies[i].vz;
    }
}

static uint64_t kernel(uint64_t round)
{
    body bodies[BODIES];
    uint64_t state = round + 1;
    double *numbers = &bodies[0].x;
    for (int i = 0; i < BODIES * 7; i++)
        numbers[i] = 1 + (double)(next(&state) % 4096) / 512;
    for (int i = 0; i < STEPS; i++)
        step(bodies, 0.001);
    return bits(bodies[0].x) ^ bits(bodies[BODIES - 1].vz);
}
