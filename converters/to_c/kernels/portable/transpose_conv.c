/* Every result gathers the inputs that reach it. SPDX-License-Identifier: 0BSD */
#include "transpose_conv.h"

/* The row (or column) of the input that reaches place `at` through row `k` of the kernel; -1: none. */
static int32_t source(int32_t at, int32_t k, int32_t pad, int32_t stride, int32_t size)
{
    const int32_t moved = at + pad - k;
    if (moved < 0 || moved % stride != 0 || moved / stride >= size) {
        return -1;
    }
    return moved / stride;
}

#define SUM(name, type, wide)                                                                                     \
    static wide name(const ednn_transpose_conv_t *p, const type *in, int32_t y, int32_t x, int32_t o)             \
    {                                                                                                             \
        wide sum = 0;                                                                                             \
        for (int32_t i = 0; i < p->kernel_h; i++) {                                                               \
            const int32_t row = source(y, i, p->pad_top, p->stride_h, p->in_h);                                   \
            for (int32_t j = 0; row >= 0 && j < p->kernel_w; j++) {                                               \
                const int32_t column = source(x, j, p->pad_left, p->stride_w, p->in_w);                           \
                if (column < 0) {                                                                                 \
                    continue;                                                                                     \
                }                                                                                                 \
                const int8_t *w = p->weights + ((o * p->kernel_h + i) * p->kernel_w + j) * p->in_c;               \
                const type *from = in + (row * p->in_w + column) * p->in_c;                                       \
                for (int32_t c = 0; c < p->in_c; c++) {                                                           \
                    sum += (from[c] - p->zero) * w[c];                                                            \
                }                                                                                                 \
            }                                                                                                     \
        }                                                                                                         \
        return sum;                                                                                               \
    }

SUM(sum_s8, int8_t, int32_t)
SUM(sum_s16, int16_t, int64_t)

void ednn_transpose_conv_s8(const ednn_transpose_conv_t *p, const int8_t *in, int8_t *out)
{
    for (int32_t n = 0; n < p->batch; n++, in += p->in_h * p->in_w * p->in_c) {
        for (int32_t at = 0; at < p->out_h * p->out_w; at++) {
            for (int32_t o = 0; o < p->out_c; o++) {
                const int32_t sum = sum_s8(p, in, at / p->out_w, at % p->out_w, o) + ((const int32_t *)p->bias)[o];
                const int32_t y = o < p->upward ? ednn_rescale_up(sum, p->multipliers[o], p->shifts[o])
                                                : ednn_rescale(sum, p->multipliers[o], p->shifts[o]);
                *out++ = (int8_t)ednn_clamp(y + p->out_zero, p->least, p->largest);
            }
        }
    }
}

void ednn_transpose_conv_s16(const ednn_transpose_conv_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t n = 0; n < p->batch; n++, in += p->in_h * p->in_w * p->in_c) {
        for (int32_t at = 0; at < p->out_h * p->out_w; at++) {
            for (int32_t o = 0; o < p->out_c; o++) {
                const int64_t sum = sum_s16(p, in, at / p->out_w, at % p->out_w, o) + ((const int64_t *)p->bias)[o];
                const int32_t y = ednn_rescale_wide(sum, p->multipliers[o], p->shifts[o]);
                *out++ = (int16_t)ednn_clamp(y, p->least, p->largest);
            }
        }
    }
}
