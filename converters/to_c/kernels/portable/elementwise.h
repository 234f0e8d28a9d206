/* Two tensors element by element, one of them repeated where it is smaller. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ELEMENTWISE_H
#define EDNN_ELEMENTWISE_H

#include "edgedl_nn.h"

#define EDNN_OUTER 4 /* dimensions besides the last one */

typedef struct {
    const int32_t *sizes;   /* [EDNN_OUTER] */
    const int32_t *steps_a; /* [EDNN_OUTER]: elements from one index to the next; 0 where `a` is repeated */
    const int32_t *steps_b;
    int32_t rows;   /* product of sizes */
    int32_t length; /* of the last dimension */
    int32_t step_a; /* along it: 1, or 0 */
    int32_t step_b;
} ednn_pairs_t;

/* Where a row begins in `a` and `b`; all zero: the first. */
typedef struct {
    int32_t at[EDNN_OUTER];
    int32_t a, b;
} ednn_place_t;

static inline void ednn_next_row(const ednn_pairs_t *p, ednn_place_t *place)
{
    for (int32_t d = EDNN_OUTER - 1; d >= 0; d--) {
        place->a += p->steps_a[d];
        place->b += p->steps_b[d];
        place->at[d]++;
        if (place->at[d] < p->sizes[d]) {
            return;
        }
        place->a -= p->steps_a[d] * p->sizes[d];
        place->b -= p->steps_b[d] * p->sizes[d];
        place->at[d] = 0;
    }
}

#endif
