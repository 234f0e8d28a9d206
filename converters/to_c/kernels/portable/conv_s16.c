/* Convolution of int16 with int8 weights in plain C; all zero points are 0. SPDX-License-Identifier: 0BSD */
#include "conv_s16.h"

/* Sum of one output; `w`: the weights of its channel, `first`: the input's channel that its group begins with. */
static int64_t sum_of(const ednn_conv_s16_t *p, const int16_t *in, int32_t top, int32_t left, int32_t first, const int8_t *w)
{
    const int32_t depth = p->in_c / p->groups;
    int64_t sum = 0;
    for (int32_t i = 0; i < p->kernel_h; i++) {
        const int32_t row = top + i * p->dilation_h;
        for (int32_t j = 0; j < p->kernel_w; j++, w += depth) {
            const int32_t column = left + j * p->dilation_w;
            if (row >= 0 && row < p->in_h && column >= 0 && column < p->in_w) {
                const int16_t *from = in + (row * p->in_w + column) * p->in_c + first;
                for (int32_t c = 0; c < depth; c++) {
                    sum += (int32_t)w[c] * from[c];
                }
            }
        }
    }
    return sum;
}

void ednn_conv_s16(const ednn_conv_s16_t *p, const int16_t *in, int16_t *out)
{
    const int32_t depth = p->in_c / p->groups, each = p->out_c / p->groups;
    const int32_t length = p->kernel_h * p->kernel_w * depth;
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
            for (int32_t o = 0; o < p->out_c; o++) {
                const int64_t sum = p->bias[o] + sum_of(p, in, top, left, o / each * depth, p->weights + o * length);
                const int32_t scaled = ednn_rescale_wide(sum, p->multipliers[o], p->shifts[o]);
                *out++ = (int16_t)ednn_clamp(scaled, p->least, p->largest);
            }
        }
    }
}
