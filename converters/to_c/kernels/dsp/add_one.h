/* Addition of two int8 values of different scales on Armv7E-M, one element. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_ONE_H
#define EDNN_ADD_ONE_H

#include "matrix.h"

#define EDNN_ADD_LEFT 20 /* bits that the inputs are shifted up by, as in LiteRT */

typedef struct {
    int32_t a_zero, a_multiplier, a_right; /* scale of a / (2 * the larger scale); `right`: 0..EDNN_ADD_LEFT, to the right */
    int32_t b_zero, b_multiplier, b_right;
    int32_t out_zero, out_multiplier, out_shift; /* shift: -31..0 */
    int32_t least, largest;
} ednn_add_one_t;

/* x / 2^right, halves away from zero. */
static inline int32_t ednn_add_rounded(int32_t x, int32_t right)
{
    const int32_t half = (int32_t)((1u << right) >> 1);
    return (x + half + ((x >> 31) & (right > 0 ? -1 : 0))) >> right;
}

/* The result for a sum of two scaled operands. */
static inline int32_t ednn_add_result(const ednn_add_one_t *p, int32_t sum)
{
    const int32_t scaled = ednn_add_rounded(ednn_high_round(sum * 2, p->out_multiplier), -p->out_shift);
    return ednn_clamp(scaled + p->out_zero, p->least, p->largest);
}

/* As LiteRT adds whole blocks of 16 elements: an operand is shifted before it is multiplied, and so rounded once. */
static inline int32_t ednn_add_one(const ednn_add_one_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_round((a - p->a_zero) * (1 << (EDNN_ADD_LEFT + 1 - p->a_right)), p->a_multiplier);
    const int32_t right = ednn_high_round((b - p->b_zero) * (1 << (EDNN_ADD_LEFT + 1 - p->b_right)), p->b_multiplier);
    return ednn_add_result(p, left + right);
}

#endif
