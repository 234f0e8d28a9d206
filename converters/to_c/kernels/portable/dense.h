/* Fully connected layer of int8. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DENSE_H
#define EDNN_DENSE_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [out][depth] */
    const int32_t *bias;   /* [out], the input's zero point folded in */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t zero;
    int32_t out_zero;
    int32_t least;
    int32_t largest;
    int32_t rows, depth, out;
} ednn_dense_t;

void ednn_dense_s8(const ednn_dense_t *p, const int8_t *in, int8_t *out);

#endif
