/* Transposed convolution of int8 and int16 with weights of int8. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_TRANSPOSE_CONV_H
#define EDNN_TRANSPOSE_CONV_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w][in_c] */
    const void *bias;      /* [out_c]: int32, for int16 int64 */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t zero, out_zero;
    int32_t least, largest;
    int32_t batch, in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
    int32_t upward; /* channels of int8 that are rounded with halves up */
} ednn_transpose_conv_t;

void ednn_transpose_conv_s8(const ednn_transpose_conv_t *p, const int8_t *in, int8_t *out);
void ednn_transpose_conv_s16(const ednn_transpose_conv_t *p, const int16_t *in, int16_t *out);

#endif
