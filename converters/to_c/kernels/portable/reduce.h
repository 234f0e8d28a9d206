/* Means, sums, largest and smallest values along axes. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_REDUCE_H
#define EDNN_REDUCE_H

#include "edgedl_nn.h"

#define EDNN_REDUCE_RANK 4

typedef struct {
    const int32_t *axes;       /* [2][4][2]: (size, values from one to the next) of the axes that are kept, and of those that
                                  go, outermost first, filled up with (1, 0) in front */
    const int32_t *thresholds; /* [255]: the least sums that give -127, -126 ... 127; NULL: multiplied instead */
    int32_t offset;            /* taken from each sum first */
    int32_t multiplier, shift;
    int32_t out_zero;
    int32_t least, largest;
    int32_t period, upward; /* of each `period` results the first `upward` are rounded with halves up */
} ednn_reduce_t;

void ednn_mean_s8(const ednn_reduce_t *p, const int8_t *in, int8_t *out);
void ednn_mean_s16(const ednn_reduce_t *p, const int16_t *in, int16_t *out);
void ednn_max_s8(const ednn_reduce_t *p, const int8_t *in, int8_t *out);
void ednn_min_s8(const ednn_reduce_t *p, const int8_t *in, int8_t *out);
void ednn_max_s16(const ednn_reduce_t *p, const int16_t *in, int16_t *out);
void ednn_min_s16(const ednn_reduce_t *p, const int16_t *in, int16_t *out);

#endif
