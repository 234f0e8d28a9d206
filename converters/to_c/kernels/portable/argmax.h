/* Where the largest or smallest value along an axis is. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ARGMAX_H
#define EDNN_ARGMAX_H

#include "edgedl_nn.h"

typedef struct {
    int32_t outer, size, inner; /* the axis has `size` values, `inner` apart */
    int32_t sign;               /* 1: the largest, -1: the smallest */
} ednn_argmax_t;

/* Of equal ones the first. int64 results are two words each, the lower one first: the arena is aligned to 4 bytes. */
void ednn_argmax_s8(const ednn_argmax_t *p, const int8_t *in, int32_t *out);
void ednn_argmax_s8_s64(const ednn_argmax_t *p, const int8_t *in, int32_t *out);

#endif
