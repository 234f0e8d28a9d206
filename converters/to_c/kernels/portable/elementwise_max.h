/* The larger of two int8 values. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_MAX_H
#define EDNN_ELEMENTWISE_MAX_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
} ednn_max_s8_t;

void ednn_max_s8(const ednn_max_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
