/* PReLU of int8. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_PRELU_H
#define EDNN_PRELU_H

#include "edgedl_nn.h"

typedef struct {
    const int16_t *slopes; /* [period], without their zero point */
    int32_t period, count;
    int32_t zero, out_zero;
    int32_t multiplier, shift;
    int32_t slope_multiplier, slope_shift;
} ednn_prelu_t;

/* `out` may be `in` */
void ednn_prelu_s8(const ednn_prelu_t *p, const int8_t *in, int8_t *out);

#endif
