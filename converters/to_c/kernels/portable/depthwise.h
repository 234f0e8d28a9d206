/* Depthwise convolution of int8 and int16, with any multiplier, strides, padding, dilation. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DEPTHWISE_H
#define EDNN_DEPTHWISE_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [kernel_h][kernel_w][out_c] */
    const int32_t *bias;   /* [out_c], of int8 */
    const int64_t *wide_bias; /* [out_c], of int16 */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t zero;
    int32_t out_zero;
    int32_t least;
    int32_t largest;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c; /* out_c is a multiple of in_c */
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t upward; /* channels before this one round halves up, the others away from zero */
} ednn_depthwise_t;

void ednn_depthwise_s8(const ednn_depthwise_t *p, const int8_t *in, int8_t *out);

/* Taps of a window that lie within the input: the first of them, and the one behind the last. */
typedef struct {
    int32_t first, end;
} ednn_taps_t;

static inline ednn_taps_t ednn_taps(int32_t origin, int32_t kernel, int32_t dilation, int32_t size)
{
    ednn_taps_t taps = {0, kernel};
    while (taps.first < kernel && origin + taps.first * dilation < 0) {
        taps.first++;
    }
    while (taps.end > taps.first && origin + (taps.end - 1) * dilation >= size) {
        taps.end--;
    }
    return taps;
}

#endif
