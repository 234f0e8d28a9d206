/* Sum (or difference) of two int8 tensors of any scales in plain C. SPDX-License-Identifier: 0BSD */
#include "add.h"

void ednn_add_s8(const ednn_add_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            *out++ = (int8_t)ednn_add_one(&p->one, a[place.a + i * p->pairs.step_a], b[place.b + i * p->pairs.step_b]);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
