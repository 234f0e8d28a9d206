/* Comparisons, and choices by their results, with broadcasting. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_COMPARE_H
#define EDNN_COMPARE_H

#include "edgedl_nn.h"

#define EDNN_COMPARE_RANK 5

typedef struct {
    const int32_t *axes; /* [3][5]: sizes of the output, values from one to the next in a, in b (in a choice: [4][5], with
                            those of the condition last) */
    int32_t bytes;       /* of a value */
    int32_t relation;    /* 0: a == b, 1: a != b, 2: a < b, 3: a <= b, 4: a > b, 5: a >= b */
    int32_t scaled;      /* whether what follows counts */
    int32_t a_zero, a_multiplier, a_shift;
    int32_t b_zero, b_multiplier, b_shift;
} ednn_compare_t;

void ednn_compare(const ednn_compare_t *p, const void *a, const void *b, uint8_t *out);

/* out = condition ? a : b */
void ednn_select(const ednn_compare_t *p, const uint8_t *condition, const void *a, const void *b, void *out);

#endif
