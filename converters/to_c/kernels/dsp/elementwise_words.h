/* Four int8 at a time, and results of elementwise operators on Armv7E-M. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_WORDS_H
#define EDNN_ELEMENTWISE_WORDS_H

#include "matrix.h"

/* The int8 that begins at bit `at` (0, 8, 16, 24) of a word. */
static inline int32_t ednn_lane(uint32_t word, int32_t at)
{
    return (int32_t)(((word >> at) & 0xFFu) ^ 0x80u) - 0x80;
}

/* x saturated to int8, as the 8 bits of a word that begin at bit `at`. */
static inline uint32_t ednn_saturated(int32_t x, int32_t at)
{
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)
    int32_t found;
    __asm__("ssat %0, #8, %1" : "=r"(found) : "r"(x));
    return ((uint32_t)found & 0xFFu) << at;
#else
    return ((uint32_t)ednn_clamp(x, INT8_MIN, INT8_MAX) & 0xFFu) << at;
#endif
}

/* 4 bytes to anywhere. */
static inline void ednn_store(int8_t *to, uint32_t word)
{
#if defined(__GNUC__)
    ((ednn_unaligned_t *)(void *)to)->word = word;
#else
    for (int32_t i = 0; i < 4; i++) {
        to[i] = (int8_t)ednn_lane(word, 8 * i);
    }
#endif
}

#endif
