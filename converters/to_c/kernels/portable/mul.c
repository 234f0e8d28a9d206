/* Product of two int8 tensors in plain C. SPDX-License-Identifier: 0BSD */
#include "mul.h"

void ednn_mul_s8(const ednn_mul_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            const int32_t product = (a[place.a + i * p->pairs.step_a] - p->a_zero) * (b[place.b + i * p->pairs.step_b] - p->b_zero);
            const int32_t scaled = ednn_rescale(product, p->multiplier, p->shift) + p->out_zero;
            *out++ = (int8_t)ednn_clamp(scaled, p->least, p->largest);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
