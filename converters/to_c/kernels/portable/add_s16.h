/* Sum (or difference) of two int16 tensors of any scales. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_S16_H
#define EDNN_ADD_S16_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
    int32_t a_multiplier, a_right; /* scale of a / (2 * the larger scale); `right`: 0..31, of a shift to the right */
    int32_t b_multiplier, b_right;
    int32_t out_multiplier, out_shift;
    int32_t sign;  /* of b: 1, or -1 for a difference */
    int32_t whole; /* elements at the beginning of each row whose operands are rounded once, as LiteRT's vector code does */
    int32_t least, largest;
} ednn_add_s16_t;

void ednn_add_s16(const ednn_add_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
