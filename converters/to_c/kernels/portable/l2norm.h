/* Rows of int8 divided by their length. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_L2NORM_H
#define EDNN_L2NORM_H

#include "edgedl_nn.h"

typedef struct {
    int32_t rows, depth;
    int32_t zero;
} ednn_l2norm_t;

/* The output's scale is 1/128, its zero point 0; `out` may be `in`. */
void ednn_l2norm_s8(const ednn_l2norm_t *p, const int8_t *in, int8_t *out);

#endif
