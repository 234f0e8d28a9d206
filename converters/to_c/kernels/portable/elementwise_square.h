/* Squared difference of two int8 tensors. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_SQUARE_H
#define EDNN_ELEMENTWISE_SQUARE_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
    int32_t a_zero, a_multiplier, a_right; /* scale of a / (2 * the larger scale); `right`: 0..31, of a shift to the right */
    int32_t b_zero, b_multiplier, b_right;
    int32_t out_zero, out_multiplier, out_shift;
} ednn_square_s8_t;

void ednn_square_s8(const ednn_square_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
