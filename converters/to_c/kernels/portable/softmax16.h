/* Softmax of int16 rows. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_SOFTMAX16_H
#define EDNN_SOFTMAX16_H

#include "edgedl_nn.h"

typedef struct {
    const int16_t *exp;     /* [513]: exp of -10..0, scale 2^-15 */
    const int16_t *inverse; /* [513]: 1 / (1 + x) of x in 0..1, scale 2^-15 */
    int32_t rows, depth;
    int32_t multiplier, shift; /* of the differences to the largest: to steps of 10 / 65535 */
} ednn_softmax16_t;

/* `out` may be `in` */
void ednn_softmax_s16(const ednn_softmax16_t *p, const int16_t *in, int16_t *out);

#endif
