/* The larger of two int16 values in plain C. SPDX-License-Identifier: 0BSD */
#include "elementwise_max_s16.h"

void ednn_max_s16(const ednn_max_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            const int16_t left = a[place.a + i * p->pairs.step_a];
            const int16_t right = b[place.b + i * p->pairs.step_b];
            *out++ = left > right ? left : right;
        }
        ednn_next_row(&p->pairs, &place);
    }
}
