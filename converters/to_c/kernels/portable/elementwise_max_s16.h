/* The larger of two int16 values. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_MAX_S16_H
#define EDNN_ELEMENTWISE_MAX_S16_H

#include "elementwise.h"

typedef struct {
    ednn_pairs_t pairs;
} ednn_max_s16_t;

void ednn_max_s16(const ednn_max_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
