/* Product of two int16 tensors. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_MUL_S16_H
#define EDNN_MUL_S16_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
    int32_t a_zero, b_zero, out_zero;
    int32_t multiplier, shift;
    int32_t least, largest;
} ednn_mul_s16_t;

void ednn_mul_s16(const ednn_mul_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
