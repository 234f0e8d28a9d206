/* Product of two int8 tensors. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_MUL_H
#define EDNN_MUL_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
    int32_t a_zero, b_zero, out_zero;
    int32_t multiplier, shift;
    int32_t least, largest;
} ednn_mul_s8_t;

void ednn_mul_s8(const ednn_mul_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
