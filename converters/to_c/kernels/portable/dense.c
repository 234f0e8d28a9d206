/* Fully connected layer of int8 in plain C. SPDX-License-Identifier: 0BSD */
#include "dense.h"

void ednn_dense_s8(const ednn_dense_t *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++) {
        const int8_t *w = p->weights;
        for (int32_t o = 0; o < p->out; o++) {
            int32_t sum = p->bias[o];
            for (int32_t k = 0; k < p->depth; k++) {
                sum += (int32_t)*w++ * in[k];
            }
            sum = ednn_rescale_up(sum, p->multipliers[o], p->shifts[o]) + p->out_zero;
            *out++ = (int8_t)ednn_clamp(sum, p->least, p->largest);
        }
        in += p->depth;
    }
}
