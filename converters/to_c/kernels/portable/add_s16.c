/* Sum (or difference) of two int16 tensors of any scales in plain C. SPDX-License-Identifier: 0BSD */
#include "add_s16.h"

#define LEFT 15 /* bits that the inputs are shifted up by, as in LiteRT */

static int32_t add_one(const ednn_add_s16_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul(a * (1 << LEFT), p->a_multiplier);
    const int32_t right = ednn_high_mul(b * (1 << LEFT), p->b_multiplier);
    const int32_t sum = ednn_rounded_shift(left, p->a_right) + ednn_rounded_shift(right, p->b_right);
    return ednn_clamp(ednn_rescale(sum, p->out_multiplier, p->out_shift), p->least, p->largest);
}

void ednn_add_s16(const ednn_add_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            *out++ = (int16_t)add_one(p, a[place.a + i * p->pairs.step_a], b[place.b + i * p->pairs.step_b]);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
