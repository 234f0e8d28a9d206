/* Fixed-point arithmetic of TensorFlow Lite, shared by all kernels. SPDX-License-Identifier: 0BSD */
#ifndef EDGEDL_NN_H
#define EDGEDL_NN_H

#include <stddef.h>
#include <stdint.h>

/* (a * b * 2 + 2^31) >> 32, saturated: gemmlowp's SaturatingRoundingDoublingHighMul. Ties go up, as there. */
static inline int32_t ednn_high_mul(int32_t a, int32_t b)
{
    if (a == INT32_MIN && b == INT32_MIN) {
        return INT32_MAX;
    }
    return (int32_t)(((int64_t)a * (int64_t)b + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^exponent, exponent 0..31, halves up: what ruy, LiteRT's matrix library, does. */
static inline int32_t ednn_shift_up(int32_t x, int32_t exponent)
{
    return exponent > 0 ? (x >> exponent) + ((x >> (exponent - 1)) & 1) : x;
}

/* x / 2^exponent, exponent 0..31, halves away from zero: gemmlowp's RoundingDivideByPOT. */
static inline int32_t ednn_rounded_shift(int32_t x, int32_t exponent)
{
    const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1u);
    const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
    return (x >> exponent) + ((x & mask) > threshold ? 1 : 0);
}

/* x * multiplier / 2^31 * 2^shift, rounded twice: MultiplyByQuantizedMultiplier with double rounding. */
static inline int32_t ednn_rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    return ednn_rounded_shift(ednn_high_mul((int32_t)((uint32_t)x << left), multiplier), right);
}

/* The same as ruy rounds it: results of convolutions and fully connected layers. */
static inline int32_t ednn_rescale_up(int32_t x, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    return ednn_shift_up(ednn_high_mul((int32_t)((uint32_t)x << left), multiplier), right);
}

/* A sum of 64 bits (below 2^47) rescaled: MultiplyByQuantizedMultiplier for int64, which rounds once, with a multiplier of
   16 bits; shift below 8. */
static inline int32_t ednn_rescale_wide(int64_t x, int32_t multiplier, int32_t shift)
{
    const int32_t reduced = multiplier < 0x7FFF0000 ? (multiplier + (1 << 15)) >> 16 : 0x7FFF;
    const int32_t total = 15 - shift;
    return (int32_t)((x * reduced + ((int64_t)1 << (total - 1))) >> total);
}

static inline int32_t ednn_clamp(int32_t x, int32_t least, int32_t largest)
{
    return x < least ? least : (x > largest ? largest : x);
}

#endif
