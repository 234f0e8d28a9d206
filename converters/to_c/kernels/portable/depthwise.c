/* Depthwise convolution in plain C: pixel by pixel, each channel over the taps of its window that lie within the input.
   SPDX-License-Identifier: 0BSD */
#include "depthwise.h"

/* Where the taps of a pixel that lie within the input begin, and how one steps from tap to tap. */
typedef struct {
    const int8_t *in; /* of the first channel */
    const int8_t *weights;
    int32_t rows, columns;
    int32_t in_right, in_down; /* from column to column; from the end of a row to the next */
    int32_t weights_right, weights_down;
} window_t;

static window_t window(const ednn_depthwise_t *p, const int8_t *in, int32_t top, int32_t left)
{
    const ednn_taps_t rows = ednn_taps(top, p->kernel_h, p->dilation_h, p->in_h);
    const ednn_taps_t columns = ednn_taps(left, p->kernel_w, p->dilation_w, p->in_w);
    const int32_t count = columns.end - columns.first;
    const int32_t row = top + rows.first * p->dilation_h;
    const int32_t column = left + columns.first * p->dilation_w;
    const int empty = rows.end == rows.first || count == 0;
    const window_t found = {
        empty ? in : in + (row * p->in_w + column) * p->in_c,
        p->weights + (rows.first * p->kernel_w + columns.first) * p->out_c,
        empty ? 0 : rows.end - rows.first,
        count,
        p->dilation_w * p->in_c,
        (p->dilation_h * p->in_w - count * p->dilation_w) * p->in_c,
        p->out_c,
        (p->kernel_w - count) * p->out_c,
    };
    return found;
}

static int32_t sum_of(const window_t *v, const int8_t *in, const int8_t *weights, int32_t zero, int32_t sum)
{
    for (int32_t i = 0; i < v->rows; i++) {
        for (int32_t j = v->columns; j > 0; j--) {
            sum += *weights * (*in - zero);
            in += v->in_right;
            weights += v->weights_right;
        }
        in += v->in_down;
        weights += v->weights_down;
    }
    return sum;
}

static void pixel_s8(const ednn_depthwise_t *p, const int8_t *in, int32_t top, int32_t left, int8_t *out)
{
    const window_t v = window(p, in, top, left);
    const int32_t each = p->out_c / p->in_c;
    int32_t o = 0;
    for (int32_t c = 0; c < p->in_c; c++) {
        for (int32_t m = 0; m < each; m++) {
            int32_t sum = sum_of(&v, v.in + c, v.weights + o, p->zero, p->bias[o]);
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
