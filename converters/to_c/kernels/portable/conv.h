/* Convolution of int8, with groups, strides, dilation and padding. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_CONV_H
#define EDNN_CONV_H

#include "add_one.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w][in_c / groups] */
    const int32_t *bias;   /* [out_c], the input's zero point folded in */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t zero; /* of the input: what padding is filled with */
    int32_t out_zero;
    int32_t least;
    int32_t largest;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t groups;
} ednn_conv_t;

typedef struct {
    ednn_conv_t conv;
    ednn_add_one_t add;
} ednn_conv_add_t;

/* scratch: kernel_h * kernel_w * in_c / groups bytes */
void ednn_conv_s8(const ednn_conv_t *p, const int8_t *in, int8_t *out, int8_t *scratch);

/* The same, then added to `other` of the output's shape; `out` may be `other`. scratch: out_c bytes more, behind those of the
   convolution up to a multiple of 4. */
void ednn_conv_add_s8(const ednn_conv_add_t *p, const int8_t *in, const int8_t *other, int8_t *out, int8_t *scratch);

#endif
