/* Sum (or difference) of two int16 tensors whose scales are powers of two. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_POT_H
#define EDNN_ADD_POT_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
    int32_t a_right, b_right; /* 0..15: shifts to the scale of the result */
    int32_t sign;             /* of b: 1, or -1 for a difference */
    int32_t least, largest;
} ednn_add_pot_s16_t;

void ednn_add_pot_s16(const ednn_add_pot_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
