/* Fully connected layer of int16 with int8 weights in plain C; all zero points are 0. SPDX-License-Identifier: 0BSD */
#include "dense_s16.h"

/* |sum| < 2^31 */
static int32_t rescaled(const ednn_dense_s16_t *p, int64_t sum, int32_t o)
{
    if (p->bias == NULL) {
        return ednn_rescale_up((int32_t)sum, p->multipliers[o], p->shifts[o]);
    }
    const int64_t size = sum < 0 ? -sum : sum;
    const int32_t right = 31 - p->shifts[o];
    const int64_t scaled = size * p->multipliers[o] + ((size * p->rests[o]) >> 22);
    const int64_t found = (scaled + ((int64_t)1 << (right - 1))) >> right;
    const int32_t limited = found > INT16_MAX + 1 ? INT16_MAX + 1 : (int32_t)found;
    return sum < 0 ? -limited : limited;
}

void ednn_dense_s16(const ednn_dense_s16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const int8_t *w = p->weights;
        for (int32_t o = 0; o < p->out; o++) {
            int64_t sum = p->bias == NULL ? 0 : p->bias[o];
            for (int32_t k = 0; k < p->depth; k++) {
                sum += (int32_t)*w++ * in[k];
            }
            *out++ = (int16_t)ednn_clamp(rescaled(p, sum, o), p->least, p->largest);
        }
    }
}
