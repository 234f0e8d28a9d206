/* Fully connected layer of int16 with int8 weights. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DENSE_S16_H
#define EDNN_DENSE_S16_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights; /* [out][depth] */
    const int64_t *bias;   /* [out], or NULL */
    const int32_t *multipliers;
    const int32_t *rests; /* [out], with a bias: 22 bits more of the multipliers */
    const int8_t *shifts;
    int32_t least;
    int32_t largest;
    int32_t rows, depth, out;
} ednn_dense_s16_t;

/* Without a bias a sum is rescaled as everywhere (multiplier / 2^31 * 2^shift, rounded twice), with one it is multiplied by
   (multiplier + rest / 2^22) / 2^31 * 2^shift, a double, and rounded once, halves away from zero: so does LiteRT. */
void ednn_dense_s16(const ednn_dense_s16_t *p, const int16_t *in, int16_t *out);

#endif
