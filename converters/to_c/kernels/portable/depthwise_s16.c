/* Depthwise convolution of int16 by int8 weights in plain C, with sums of 64 bits. SPDX-License-Identifier: 0BSD */
#include "depthwise_s16.h"

static void pixel_s16(const ednn_depthwise_t *p, const int16_t *in, int32_t top, int32_t left, int16_t *out)
{
    const ednn_taps_t rows = ednn_taps(top, p->kernel_h, p->dilation_h, p->in_h);
    const ednn_taps_t columns = ednn_taps(left, p->kernel_w, p->dilation_w, p->in_w);
    const int32_t each = p->out_c / p->in_c;
    for (int32_t o = 0; o < p->out_c; o++) {
        int64_t sum = p->wide_bias[o];
        for (int32_t i = rows.first; i < rows.end; i++) {
            const int16_t *row = in + (top + i * p->dilation_h) * p->in_w * p->in_c + o / each;
            const int8_t *w = p->weights + i * p->kernel_w * p->out_c + o;
            for (int32_t j = columns.first; j < columns.end; j++) {
                sum += (int32_t)w[j * p->out_c] * row[(left + j * p->dilation_w) * p->in_c];
            }
        }
        const int32_t found = ednn_rescale_wide(sum, p->multipliers[o], p->shifts[o]);
        out[o] = (int16_t)ednn_clamp(found, p->least, p->largest);
    }
}

void ednn_depthwise_s16(const ednn_depthwise_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            pixel_s16(p, in, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, out);
            out += p->out_c;
        }
    }
}
