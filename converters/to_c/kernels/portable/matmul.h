/* Products of batches of matrices of which neither is constant. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_MATMUL_H
#define EDNN_MATMUL_H

#include "edgedl_nn.h"

typedef struct {
    const int32_t *a_at; /* [batches]: first value of each batch's left matrix */
    const int32_t *b_at; /* [batches]: of the right one */
    int32_t batches, rows, columns, depth;
    int32_t a_row, a_step; /* values from one row of the left matrix to the next, and along its depth */
    int32_t b_column, b_step;
    int32_t a_zero, b_zero, out_zero;
    int32_t multiplier, shift;
    int32_t least, largest;
} ednn_matmul_t;

void ednn_matmul_s8(const ednn_matmul_t *p, const int8_t *a, const int8_t *b, int8_t *out);
void ednn_matmul_s16(const ednn_matmul_t *p, const int16_t *a, const int16_t *b, int16_t *out);

#endif
