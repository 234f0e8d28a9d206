/* The smaller of two int16 values. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_MIN_S16_H
#define EDNN_ELEMENTWISE_MIN_S16_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
} ednn_min_s16_t;

void ednn_min_s16(const ednn_min_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
