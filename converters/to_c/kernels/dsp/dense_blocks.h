/* Fully connected layer of int8 on Armv7E-M. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DENSE_BLOCKS_H
#define EDNN_DENSE_BLOCKS_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *weights;    /* [out / 2][depth / 4][8], see matrix.h, depth up to a multiple of 4 */
    const int32_t *constants; /* [out / 2][7] */
    int32_t least, largest;
    int32_t rows, depth, out;
} ednn_dense_blocks_t;

/* scratch: depth bytes, up to a multiple of 4, if depth is none; else NULL. `in` is aligned to 4. */
void ednn_dense_blocks_s8(const ednn_dense_blocks_t *p, const int8_t *in, int8_t *out, int8_t *scratch);

#endif
