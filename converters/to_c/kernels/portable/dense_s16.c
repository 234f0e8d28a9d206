/* Fully connected layer of int16 with int8 weights in plain C; all zero points are 0. SPDX-License-Identifier: 0BSD */
#include "dense_s16.h"

void ednn_dense_s16(const ednn_dense_s16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const int8_t *w = p->weights;
        for (int32_t o = 0; o < p->out; o++) {
            int64_t sum = p->bias[o];
            for (int32_t k = 0; k < p->depth; k++) {
                sum += (int32_t)*w++ * in[k];
            }
            const int32_t scaled = ednn_rescale_wide(sum, p->multipliers[o], p->shifts[o]);
            *out++ = (int16_t)ednn_clamp(scaled, p->least, p->largest);
        }
    }
}
