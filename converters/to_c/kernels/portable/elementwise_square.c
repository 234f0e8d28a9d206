/* Squared difference of two int8 tensors in plain C. SPDX-License-Identifier: 0BSD */
#include "elementwise_square.h"

#define LEFT 7 /* bits that the inputs are shifted up by, as in LiteRT: the square fits into 32 bits */

static int32_t square_one(const ednn_square_s8_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul((a - p->a_zero) * (1 << LEFT), p->a_multiplier);
    const int32_t right = ednn_high_mul((b - p->b_zero) * (1 << LEFT), p->b_multiplier);
    const int32_t difference = ednn_rounded_shift(left, p->a_right) - ednn_rounded_shift(right, p->b_right);
    const int32_t scaled = ednn_rescale(difference * difference, p->out_multiplier, p->out_shift);
    return ednn_clamp(scaled + p->out_zero, INT8_MIN, INT8_MAX);
}

void ednn_square_s8(const ednn_square_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            *out++ = (int8_t)square_one(p, a[place.a + i * p->pairs.step_a], b[place.b + i * p->pairs.step_b]);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
