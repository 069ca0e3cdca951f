// Fibonacci numbers the slow way: nothing but calls.

#include "kernel.h"

__attribute__((noinline)) static uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t kernel(uint64_t round)
{
    return fib(24 + round % 2);
}
