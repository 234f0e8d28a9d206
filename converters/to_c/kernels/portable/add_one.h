/* Addition of two int8 values of different scales, one element. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_ONE_H
#define EDNN_ADD_ONE_H

#include "edgedl_nn.h"

#define EDNN_ADD_LEFT 20 /* bits that the inputs are shifted up by, as in LiteRT */

typedef struct {
    int32_t a_zero, a_multiplier, a_right; /* scale of a / (2 * the larger scale); `right`: 0..EDNN_ADD_LEFT, to the right */
    int32_t b_zero, b_multiplier, b_right;
    int32_t out_zero, out_multiplier, out_shift; /* shift: to the left if positive */
    int32_t least, largest;
} ednn_add_one_t;

/* The result for a sum of two scaled operands. */
static inline int32_t ednn_add_result(const ednn_add_one_t *p, int32_t sum)
{
    return ednn_clamp(ednn_rescale(sum, p->out_multiplier, p->out_shift) + p->out_zero, p->least, p->largest);
}

/* As LiteRT adds whole blocks of 16 elements: an operand is shifted before it is multiplied, and so rounded once. */
static inline int32_t ednn_add_one(const ednn_add_one_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul((a - p->a_zero) * (1 << (EDNN_ADD_LEFT - p->a_right)), p->a_multiplier);
    const int32_t right = ednn_high_mul((b - p->b_zero) * (1 << (EDNN_ADD_LEFT - p->b_right)), p->b_multiplier);
    return ednn_add_result(p, left + right);
}

#endif
