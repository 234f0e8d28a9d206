/* Sum (or difference) of two int16 tensors whose scales are powers of two in plain C. SPDX-License-Identifier: 0BSD */
#include "add_pot.h"

void ednn_add_pot_s16(const ednn_add_pot_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            const int32_t left = ednn_rounded_shift(a[place.a + i * p->pairs.step_a], p->a_right);
            const int32_t right = ednn_rounded_shift(b[place.b + i * p->pairs.step_b], p->b_right);
            const int32_t sum = ednn_clamp(left + p->sign * right, INT16_MIN, INT16_MAX);
            *out++ = (int16_t)ednn_clamp(sum, p->least, p->largest);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
