/* Values moved without being changed: slices, transpositions, joins, splits, padding. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_COPY_H
#define EDNN_COPY_H

#include "edgedl_nn.h"

#define EDNN_COPY_RANK 8

/* A box is index of the input, index of the output, first byte in the input, first byte in the output, bytes of a run; then
   for each axis, outermost first: size, bytes from one run to the next in the input, and in the output. */
typedef struct {
    const int32_t *boxes; /* [count][5 + 3 * rank] */
    int32_t count, rank;
    int32_t filled; /* elements of output 0 that are filled first; 0: none */
    int32_t fill;
    int32_t width; /* bytes of an element: 1, 2, 4 or 8 */
} ednn_copy_t;

/* Runs are copied in order and byte by byte from the front, so that an output may begin before its input. */
void ednn_copy(const ednn_copy_t *p, const void *const *in, void *const *out);

#endif
