/* Softmax of int8 rows, with the float32 arithmetic of TensorFlow Lite done in integers. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_SOFTMAX_H
#define EDNN_SOFTMAX_H

#include "edgedl_nn.h"

typedef struct {
    const uint32_t *table; /* [256]: float32 bits of exp(-i * scale * beta), each 0 or at least 2^-126 */
    int32_t rows, depth;
    int32_t bits;     /* the output's scale is 2^-bits */
    int32_t out_zero;
    int32_t least, largest;
} ednn_softmax_t;

/* `out` may be `in` */
void ednn_softmax_s8(const ednn_softmax_t *p, const int8_t *in, int8_t *out);
void ednn_softmax_s8_s16(const ednn_softmax_t *p, const int8_t *in, int16_t *out);

#endif
