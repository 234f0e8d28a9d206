/* The two functions of the C library that generated code may call, for compilers without one. SPDX-License-Identifier: 0BSD */
#ifndef EDGEDL_STRING_H
#define EDGEDL_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

/* Also where the compiler is told that there is no library (-ffreestanding), copies of known sizes become loads and stores */
#define memcpy(to, from, size) __builtin_memcpy(to, from, size)
#define memmove(to, from, size) __builtin_memmove(to, from, size)
#define memset(to, value, size) __builtin_memset(to, value, size)

#endif
