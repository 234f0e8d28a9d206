/* The two matrix kernels of Armv7E-M that convolutions and fully connected layers share. SPDX-License-Identifier: 0BSD

   k is padded with zeros to a multiple of 4. Weights go by pairs of channels, of each pair 8 bytes for 4 values of k:
   a0 b0 a2 b2  a1 b1 a3 b3 (a, b: the channels), so that SXTB16 of a word gives two values of a, and of the word turned by
   8 bits two of b. Activations are their counterparts: x0 and x2 in the halves of one word, x1 and x3 in the next.

   Of each pair of channels there are 7 words: two sums to begin with, the shifts (bits 0..7, 8..15), multiplier and offset
   of a, multiplier and offset of b. A result is saturate((((sum << shift) * multiplier >> 32) + offset) >> 12) to int8;
   whoever made the constants has shown that nothing overflows and that every result is what two roundings give. */
#ifndef EDNN_MATRIX_H
#define EDNN_MATRIX_H

#include "edgedl_nn.h"

#define EDNN_LANES 4 /* pixels at a time */

/* Four pixels by `channels` channels. `lanes`: for each 4 values of k 8 words, the first pairs of the pixels 0..3, then their
   second ones; it ends at `end`. out[pixel * stride + channel]. */
void ednn_matrix_lanes(const uint32_t *lanes, const int8_t *weights, const int32_t *constants, int8_t *out, int32_t stride,
                       int32_t channels, const uint32_t *end);

/* One row of `depth` int8 (a multiple of 4, aligned to 4) by `channels` channels. Weights and constants go on to a multiple of
   four channels. */
void ednn_matrix_row(const int8_t *x, const int8_t *weights, const int32_t *constants, int8_t *out, int32_t channels,
                     int32_t depth);

#if defined(__GNUC__)
typedef struct {
    uint32_t word;
} __attribute__((packed, may_alias)) ednn_unaligned_t;
#endif

/* 4 bytes from anywhere. */
static inline uint32_t ednn_load(const int8_t *from)
{
#if defined(__GNUC__)
    return ((const ednn_unaligned_t *)(const void *)from)->word;
#else
    const uint8_t *at = (const uint8_t *)from;
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
#endif
}

/* (a * b + 2^31) >> 32 */
static inline int32_t ednn_high_round(int32_t a, int32_t b)
{
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)
    int32_t found;
    __asm__("smmulr %0, %1, %2" : "=r"(found) : "r"(a), "r"(b));
    return found;
#else
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 31)) >> 32);
#endif
}

static inline int32_t ednn_saturate8(int32_t x)
{
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)
    int32_t found;
    __asm__("ssat %0, #8, %1" : "=r"(found) : "r"(x));
    return found;
#else
    return ednn_clamp(x, -128, 127);
#endif
}

/* The two halves of activations of 4 int8 in a word: (x0, x2) and (x1, x3). */
static inline uint32_t ednn_even(uint32_t x)
{
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)
    uint32_t found;
    __asm__("sxtb16 %0, %1" : "=r"(found) : "r"(x));
    return found;
#else
    return ((((x & 0xFFu) ^ 0x80u) - 0x80u) & 0xFFFFu) | ((((x >> 16) & 0xFFu) ^ 0x80u) - 0x80u) << 16;
#endif
}

static inline uint32_t ednn_odd(uint32_t x)
{
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)
    uint32_t found;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(found) : "r"(x));
    return found;
#else
    return ednn_even((x >> 8) | (x << 24));
#endif
}

#endif
