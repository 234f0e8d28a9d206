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

static int8_t result(const ednn_conv_t *p, int32_t sum, int32_t o)
{
    const int32_t scaled = p->groups > 1 ? ednn_rescale(sum, p->multipliers[o], p->shifts[o]) /* as LiteRT does it */
                                         : ednn_rescale_up(sum, p->multipliers[o], p->shifts[o]);
    return (int8_t)ednn_clamp(scaled + p->out_zero, p->least, p->largest);
}

/* Channels first..last-1, two at a time. */
static void multiply(const ednn_conv_t *p, const int8_t *patch, int32_t length, int32_t first, int32_t last, int8_t *out)
{
    int32_t o = first;
    for (; o + 1 < last; o += 2) {
        const int8_t *w = p->weights + o * length;
        int32_t a = p->bias[o], b = p->bias[o + 1];
        for (int32_t k = 0; k < length; k++) {
            const int32_t x = patch[k];
            a += w[k] * x;
            b += w[k + length] * x;
        }
        out[o] = result(p, a, o);
        out[o + 1] = result(p, b, o + 1);
    }
    if (o < last) {
        const int8_t *w = p->weights + o * length;
        int32_t a = p->bias[o];
        for (int32_t k = 0; k < length; k++) {
            a += (int32_t)w[k] * patch[k];
        }
        out[o] = result(p, a, o);
    }
}

/* All channels of one pixel. */
static void pixel(const ednn_conv_t *p, const int8_t *in, int32_t y, int32_t x, int8_t *patch, int8_t *out)
{
    const int32_t depth = p->in_c / p->groups, each = p->out_c / p->groups;
    for (int32_t g = 0; g < p->groups; g++) {
        gather(p, in, y, x, g * depth, patch);
        multiply(p, patch, p->kernel_h * p->kernel_w * depth, g * each, (g + 1) * each, out);
    }
}

void ednn_conv_s8(const ednn_conv_t *p, const int8_t *in, int8_t *out, int8_t *scratch)
{
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++, out += p->out_c) {
            pixel(p, in, y, x, scratch, out);
        }
    }
}

void ednn_conv_add_s8(const ednn_conv_add_t *p, const int8_t *in, const int8_t *other, int8_t *out, int8_t *scratch)
{
    const ednn_conv_t *conv = &p->conv;
    const int32_t length = conv->kernel_h * conv->kernel_w * (conv->in_c / conv->groups);
    int8_t *sums = scratch + (length + 3) / 4 * 4;
    for (int32_t y = 0; y < conv->out_h; y++) {
        for (int32_t x = 0; x < conv->out_w; x++) {
            pixel(conv, in, y, x, scratch, sums);
            for (int32_t o = 0; o < conv->out_c; o++) {
                *out++ = (int8_t)ednn_add_one(&p->add, sums[o], *other++);
            }
        }
    }
}
