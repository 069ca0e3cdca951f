// Numbers in and out of a task: strict reading of decimal arguments, one message for what is wrong,
// plain writing of decimal results.
//
// printf and strtoull would do, but printf alone makes a module 20 KB larger, and strtoull takes
// " 7", "-7" and "7x" for numbers.

#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// The largest uint64_t has 20 digits.
enum { DIGITS_MAX = 20, EXIT_NOT_WRITTEN = 1, EXIT_BAD_ARGUMENT = 2 };

// Writes `value` in decimal.
static void put_number(uint64_t value, FILE *to)
{
    char text[DIGITS_MAX + 1];
    char *at = text + DIGITS_MAX;
    *at = 0;
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    fputs(at, to);
}

// Ends the program because it was called with the wrong number of arguments.
static _Noreturn void refuse_call(const char *usage)
{
    fputs("usage: ", stderr);
    fputs(usage, stderr);
    fputc('\n', stderr);
    exit(EXIT_BAD_ARGUMENT);
}

// The number that `text` says, or the end of the program: `name` is what `usage` calls it.
static uint64_t read_number(const char *text, const char *name, uint64_t min, uint64_t max,
                            const char *usage)
{
    uint64_t value = 0;
    const char *at = text;
    // Stopping above `max` keeps the product below 2^64 as long as max is below 10^18.
    for (; *at >= '0' && *at <= '9' && value <= max; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    if (at != text && at - text <= DIGITS_MAX && *at == 0 && value >= min && value <= max)
        return value;

    fputs(name, stderr);
    fputs(" must be a whole number from ", stderr);
    put_number(min, stderr);
    fputs(" to ", stderr);
    put_number(max, stderr);
    fputs(", not \"", stderr);
    fputs(text, stderr);
    fputs("\"; usage: ", stderr);
    fputs(usage, stderr);
    fputc('\n', stderr);
    exit(EXIT_BAD_ARGUMENT);
}

// The exit code of a task that has written its answer: a lost answer must not look like success.
static int written(void)
{
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : EXIT_NOT_WRITTEN;
}
