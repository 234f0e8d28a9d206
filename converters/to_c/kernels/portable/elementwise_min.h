/* The smaller of two int8 values. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_MIN_H
#define EDNN_ELEMENTWISE_MIN_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
} ednn_min_s8_t;

void ednn_min_s8(const ednn_min_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
