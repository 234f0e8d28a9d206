/* Convolution of int8 in plain C: the patch under the kernel is gathered, then multiplied by each channel's weights. SPDX-License-Identifier: 0BSD */
#include "conv.h"

static void gather(const ednn_conv_t *p, const int8_t *in, int32_t y, int32_t x, int32_t first, int8_t *patch)
{
    const int32_t depth = p->in_c / p->groups;
    for (int32_t i = 0; i < p->kernel_h; i++) {
        const int32_t row = y * p->stride_h - p->pad_top + i * p->dilation_h;
        for (int32_t j = 0; j < p->kernel_w; j++) {
            const int32_t column = x * p->stride_w - p->pad_left + j * p->dilation_w;
            const int inside = row >= 0 && row < p->in_h && column >= 0 && column < p->in_w;
            const int8_t *from = inside ? in + (row * p->in_w + column) * p->in_c + first : NULL;
            for (int32_t c = 0; c < depth; c++) {
                *patch++ = inside ? from[c] : (int8_t)p->zero;
            }
        }
    }
}

static void multiply(const ednn_conv_t *p, const int8_t *patch, int32_t length, int32_t first, int32_t last, int8_t *out)
{
    for (int32_t o = first; o < last; o++) {
        const int8_t *w = p->weights + o * length;
        int32_t sum = p->bias[o];
        for (int32_t k = 0; k < length; k++) {
            sum += (int32_t)w[k] * patch[k];
        }
        sum = ednn_rescale_up(sum, p->multipliers[o], p->shifts[o]) + p->out_zero;
        out[o] = (int8_t)ednn_clamp(sum, p->least, p->largest);
    }
}

void ednn_conv_s8(const ednn_conv_t *p, const int8_t *in, int8_t *out, int8_t *scratch)
{
    const int32_t length = p->kernel_h * p->kernel_w * (p->in_c / p->groups);
    const int32_t each = p->out_c / p->groups;
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            for (int32_t g = 0; g < p->groups; g++) {
                gather(p, in, y, x, g * (p->in_c / p->groups), scratch);
                multiply(p, scratch, length, g * each, (g + 1) * each, out);
            }
            out += p->out_c;
        }
    }
}
