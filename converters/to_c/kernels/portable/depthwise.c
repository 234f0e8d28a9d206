/* Depthwise convolution in plain C: pixel by pixel, each channel over the taps of its window that lie within the input.
   SPDX-License-Identifier: 0BSD */
#include "depthwise.h"

static void pixel_s8(const ednn_depthwise_t *p, const int8_t *in, int32_t top, int32_t left, int8_t *out)
{
    const ednn_taps_t rows = ednn_taps(top, p->kernel_h, p->dilation_h, p->in_h);
    const ednn_taps_t columns = ednn_taps(left, p->kernel_w, p->dilation_w, p->in_w);
    const int32_t each = p->out_c / p->in_c;
    int32_t o = 0;
    for (int32_t c = 0; c < p->in_c; c++) {
        for (int32_t m = 0; m < each; m++) {
            int32_t sum = p->bias[o];
            for (int32_t i = rows.first; i < rows.end; i++) {
                const int8_t *row = in + (top + i * p->dilation_h) * p->in_w * p->in_c + c;
                const int8_t *w = p->weights + i * p->kernel_w * p->out_c + o;
                for (int32_t j = columns.first; j < columns.end; j++) {
                    sum += w[j * p->out_c] * (row[(left + j * p->dilation_w) * p->in_c] - p->zero);
                }
            }
            sum = o < p->upward ? ednn_rescale_up(sum, p->multipliers[o], p->shifts[o])
                                : ednn_rescale(sum, p->multipliers[o], p->shifts[o]);
            out[o++] = (int8_t)ednn_clamp(sum + p->out_zero, p->least, p->largest);
        }
    }
}

void ednn_depthwise_s8(const ednn_depthwise_t *p, const int8_t *in, int8_t *out)
{
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            pixel_s8(p, in, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, out);
            out += p->out_c;
        }
    }
}
