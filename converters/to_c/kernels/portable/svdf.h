/* Singular value decomposition filters of int8, with their last inputs kept as int16. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_SVDF_H
#define EDNN_SVDF_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *features; /* [units * rank][inputs] */
    const int16_t *time;    /* [units * rank][memory] */
    const int32_t *bias;    /* [units] */
    int32_t batch, inputs, units, rank, memory;
    int32_t zero, out_zero;
    int32_t state_multiplier, state_shift;
    int32_t multiplier, shift;
} ednn_svdf_t;

/* state: [batch][units * rank][memory], the oldest first */
void ednn_svdf_s8(const ednn_svdf_t *p, const int8_t *in, int16_t *state, int8_t *out);

#endif
