/* Fully connected layer of int8 in plain C. SPDX-License-Identifier: 0BSD */
#include "dense.h"

static int8_t result(const ednn_dense_t *p, int32_t sum, int32_t o)
{
    const int32_t scaled = ednn_rescale_up(sum, p->multipliers[o], p->shifts[o]) + p->out_zero;
    return (int8_t)ednn_clamp(scaled, p->least, p->largest);
}

void ednn_dense_s8(const ednn_dense_t *p, const int8_t *in, int8_t *out)
{
    const int32_t depth = p->depth;
    for (int32_t row = 0; row < p->rows; row++, in += depth, out += p->out) {
        const int8_t *w = p->weights;
        int32_t o = 0;
        for (; o + 1 < p->out; o += 2, w += 2 * depth) {
            int32_t a = p->bias[o], b = p->bias[o + 1];
            for (int32_t k = 0; k < depth; k++) {
                const int32_t x = in[k];
                a += w[k] * x;
                b += w[k + depth] * x;
            }
            out[o] = result(p, a, o);
            out[o + 1] = result(p, b, o + 1);
        }
        if (o < p->out) {
            int32_t a = p->bias[o];
            for (int32_t k = 0; k < depth; k++) {
                a += (int32_t)w[k] * in[k];
            }
            out[o] = result(p, a, o);
        }
    }
}
