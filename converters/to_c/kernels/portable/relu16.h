/* ReLU, leaky ReLU and absolute values of int16. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_RELU16_H
#define EDNN_RELU16_H

#include "edgedl_nn.h"

typedef struct {
    int32_t count;
    int32_t multiplier, shift; /* of values of 0 and above */
    int32_t below;             /* what negative values are multiplied by first: 1, or -1 */
    int32_t below_multiplier, below_shift;
    int32_t least, largest;
} ednn_relu16_t;

/* zero points are 0; `out` may be `in` */
void ednn_relu_s16(const ednn_relu16_t *p, const int16_t *in, int16_t *out);

#endif
