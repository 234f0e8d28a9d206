/* Convolution of int8 on Armv7E-M, four pixels at a time. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_CONV_BLOCKS_H
#define EDNN_CONV_BLOCKS_H

#include "add_one.h"

typedef struct {
    const int8_t *weights;    /* of each group [out_c / groups / 2][depth / 4][8], see matrix.h; the order of k: conv_blocks.c */
    const int32_t *constants; /* of each group [out_c / groups / 2][7] */
    int32_t depth;            /* kernel_h * kernel_w * in_c / groups, up to a multiple of 4 */
    int32_t zero;             /* of the input: what padding is filled with */
    int32_t least, largest;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t groups;
} ednn_conv_blocks_t;

typedef struct {
    int32_t a, b, offset, shift; /* x + y is saturate((x * a + y * b + offset) >> shift) to int8; a is 0 where that is not so */
} ednn_add_quick_t;

typedef struct {
    ednn_conv_blocks_t conv;
    ednn_add_one_t add;
    ednn_add_quick_t quick;
} ednn_conv_blocks_add_t;

/* scratch: 8 * depth bytes of lanes, a row of the kernel, 4 times what is left of its rows, each up to a multiple of 4. */
void ednn_conv_blocks_s8(const ednn_conv_blocks_t *p, const int8_t *in, int8_t *out, void *scratch);

/* The same, then added to `other` of the output's shape, whose elements are a multiple of 16 (LiteRT rounds what is left
   otherwise); `out` may be `other`. scratch: 4 * out_c bytes more. */
void ednn_conv_blocks_add_s8(const ednn_conv_blocks_add_t *p, const int8_t *in, const int8_t *other, int8_t *out, void *scratch);

#endif
