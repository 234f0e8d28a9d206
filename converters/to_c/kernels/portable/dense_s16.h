/* Fully connected layer of int16 with int8 weights. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DENSE_S16_H
#define EDNN_DENSE_S16_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [out][depth] */
    const int64_t *bias;   /* [out] */
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t least;
    int32_t largest;
    int32_t rows, depth, out;
} ednn_dense_s16_t;

void ednn_dense_s16(const ednn_dense_s16_t *p, const int16_t *in, int16_t *out);

#endif
