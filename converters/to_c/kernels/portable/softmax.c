/* Softmax of int8: exponentials from a table, summed in the order of the row as float32 numbers, divided once a row.
   Integers do it, so that it gives the same bits with and without a floating-point unit, whatever the compiler fuses.
   SPDX-License-Identifier: 0BSD */
#include "softmax.h"

/* A positive float32 is mantissa * 2^(exponent - 150), mantissa in 2^23..2^24-1; or 0. */
static inline uint32_t mantissa(uint32_t x)
{
    return x == 0 ? 0 : (x & 0x7FFFFFu) | 0x800000u;
}

/* x / 2^shift, halves to the even one; shift 1..63 */
static inline uint64_t halves_to_even(uint64_t x, uint32_t shift)
{
    const uint64_t down = x >> shift, half = (uint64_t)1 << (shift - 1), rest = x & (((uint64_t)1 << shift) - 1);
    return down + ((rest > half || (rest == half && (down & 1u))) ? 1u : 0u);
}

/* The float32 nearest to m * 2^(exponent - 150), where m has 24 + shift bits. */
static inline uint32_t rounded(uint64_t m, uint32_t exponent, uint32_t shift)
{
    if (shift > 0) {
        m = halves_to_even(m, shift);
    }
    return ((exponent + shift) << 23) + ((uint32_t)m - 0x800000u); /* 2^24 carries into the exponent by itself */
}

/* a + b, positive float32 numbers */
static uint32_t sum(uint32_t a, uint32_t b)
{
    const uint32_t large = a > b ? a : b, small = a > b ? b : a;
    const uint32_t apart = (large >> 23) - (small >> 23);
    if (small == 0 || apart > 25) {
        return large;
    }
    const uint64_t m = ((uint64_t)mantissa(large) << apart) + mantissa(small);
    return rounded(m, small >> 23, apart + ((m >> (apart + 24)) != 0 ? 1u : 0u));
}

/* 1 / x for a normal number of 1..2^30 */
static uint32_t inverse(uint32_t x)
{
    const uint32_t m = mantissa(x);
    uint32_t quotient = 0, rest = 0x800000u;
    for (int32_t i = 0; i < 26; i++) { /* bit by bit: quotient = floor(2^48 / m), of 2^24..2^25 */
        const uint32_t one = rest >= m ? 1u : 0u;
        quotient = (quotient << 1) | one;
        rest = (rest - (one ? m : 0)) << 1;
    }
    quotient = (quotient << 1) | (rest != 0 ? 1u : 0u); /* the last bit says whether anything was left */
    return rounded(quotient, 251 - (x >> 23), quotient >> 26 ? 3 : 2);
}

/* a * b, rounded to float32, then to an integer, halves up */
static int32_t product(uint32_t a, uint32_t b)
{
    const int32_t exponent = (int32_t)(a >> 23) + (int32_t)(b >> 23) - 150;
    uint64_t m = (uint64_t)mantissa(a) * mantissa(b);
    if (m == 0) {
        return 0;
    }
    const uint32_t shift = (m >> 47) != 0 ? 24 : 23;
    m = halves_to_even(m, shift);
    const int32_t right = 150 - (exponent + (int32_t)shift); /* the value is m / 2^right, at most 2^16 */
    if (right <= 0) {
        return (int32_t)(m << -right);
    }
    return right > 25 ? 0 : (int32_t)((m + ((uint64_t)1 << (right - 1))) >> right);
}

static uint32_t factor(const ednn_softmax_t *p, const int8_t *in, int32_t *most)
{
    uint32_t total = 0;
    int32_t largest = INT8_MIN;
    for (int32_t i = 0; i < p->depth; i++) {
        largest = in[i] > largest ? in[i] : largest;
    }
    for (int32_t i = 0; i < p->depth; i++) {
        total = sum(total, p->table[largest - in[i]]);
    }
    *most = largest;
    return inverse(total) + ((uint32_t)p->bits << 23);
}

void ednn_softmax_s8(const ednn_softmax_t *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++) {
        int32_t most;
        const uint32_t scale = factor(p, in, &most);
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (int8_t)ednn_clamp(product(p->table[most - in[i]], scale) + p->out_zero, p->least, p->largest);
        }
        in += p->depth;
        out += p->depth;
    }
}

void ednn_softmax_s8_s16(const ednn_softmax_t *p, const int8_t *in, int16_t *out)
{
    for (int32_t row = 0; row < p->rows; row++) {
        int32_t most;
        const uint32_t scale = factor(p, in, &most);
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (int16_t)ednn_clamp(product(p->table[most - in[i]], scale) + p->out_zero, p->least, p->largest);
        }
        in += p->depth;
        out += p->depth;
    }
}
