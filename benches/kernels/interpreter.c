// An interpreter of a small stack machine: one unpredictable jump per instruction.

#include "kernel.h"

enum { PUSH, ADD, MULTIPLY, XOR, LOAD, STORE, LESS, JUMP_IF, HALT };

// sum = 0; i = 0; do { sum = (sum * 31 + i) ^ 7; i = i + 1; } while (i < 20000)
static const int32_t program[] = {
    LOAD, 0, PUSH, 31, MULTIPLY, LOAD, 1, ADD, PUSH, 7, XOR, STORE, 0,
    LOAD, 1, PUSH, 1, ADD, STORE, 1, LOAD, 1, PUSH, 20000, LESS, JUMP_IF, 0, HALT,
};

static uint64_t interpret(const int32_t *code, uint64_t variables[2])
{
    uint64_t stack[16];
    int top = 0;
    for (int at = 0;;) {
        switch (code[at++]) {
        case PUSH: stack[top++] = (uint64_t)code[at++]; break;
        case ADD: top--; stack[top - 1] += stack[top]; break;
        case MULTIPLY: top--; stack[top - 1] *= stack[top]; break;
        case XOR: top--; stack[top - 1] ^= stack[top]; break;
        case LOAD: stack[top++] = variables[code[at++]]; break;
        case STORE: variables[code[at++]] = stack[--top]; break;
        case LESS: top--; stack[top - 1] = stack[top - 1] < stack[top]; break;
        case JUMP_IF: at = stack[--top] ? code[at] : at + 1; break;
        default: return variables[0];
        }
    }
}

static uint64_t kernel(uint64_t round)
{
    uint64_t variables[2] = {round, 0};
    return interpret(program, variables);
}
