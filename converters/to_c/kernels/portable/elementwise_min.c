/* The smaller of two int8 values in plain C. SPDX-License-Identifier: 0BSD */
#include "elementwise_min.h"

void ednn_min_s8(const ednn_min_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            const int8_t left = a[place.a + i * p->pairs.step_a];
            const int8_t right = b[place.b + i * p->pairs.step_b];
            *out++ = left < right ? left : right;
        }
        ednn_next_row(&p->pairs, &place);
    }
}
