/* Convolution of int16 with int8 weights. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_CONV_S16_H
#define EDNN_CONV_S16_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w][in_c / groups] */
    const int64_t *bias;   /* [out_c] */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t least;
    int32_t largest;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t groups;
} ednn_conv_s16_t;

void ednn_conv_s16(const ednn_conv_s16_t *p, const int16_t *in, int16_t *out);

#endif
