/* Addition of two int8 values of different scales, one element. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_ONE_H
#define EDNN_ADD_ONE_H

#include "edgedl_nn.h"

#define EDNN_ADD_LEFT 20 /* bits that the inputs are shifted up by, as in LiteRT */

typedef struct {
    int32_t a_zero, a_multiplier, a_right; /* scale of a / (2 * the larger scale); `right`: 0..31, of a shift to the right */
    int32_t b_zero, b_multiplier, b_right;
    int32_t out_zero, out_multiplier, out_shift; /* shift: to the left if positive */
    int32_t least, largest;
} ednn_add_one_t;

static inline int32_t ednn_add_one(const ednn_add_one_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul((a - p->a_zero) * (1 << EDNN_ADD_LEFT), p->a_multiplier);
    const int32_t right = ednn_high_mul((b - p->b_zero) * (1 << EDNN_ADD_LEFT), p->b_multiplier);
    const int32_t sum = ednn_rounded_shift(left, p->a_right) + ednn_rounded_shift(right, p->b_right);
    return ednn_clamp(ednn_rescale(sum, p->out_multiplier, p->out_shift) + p->out_zero, p->least, p->largest);
}

#endif
