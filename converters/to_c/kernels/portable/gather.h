/* Rows by indices that are computed. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_GATHER_H
#define EDNN_GATHER_H

#include "edgedl_nn.h"

typedef struct {
    int32_t outer; /* times that the rows are there: the product of the axes before theirs */
    int32_t rows;
    int32_t count; /* of indices */
    int32_t bytes; /* of a row */
} ednn_gather_t;

typedef struct {
    const int32_t *sizes; /* [depth]: of the axes that a tuple of indices is for */
    int32_t depth;
    int32_t count; /* of tuples */
    int32_t bytes; /* of what a tuple names */
} ednn_gather_nd_t;

/* An index outside of its axis is taken for the nearest one inside. */
void ednn_gather(const ednn_gather_t *p, const void *in, const int32_t *indices, void *out);
void ednn_gather_nd(const ednn_gather_nd_t *p, const void *in, const int32_t *indices, void *out);

#endif
