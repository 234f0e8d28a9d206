/* Logistic function and hyperbolic tangent of int16. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_SIGMOID16_H
#define EDNN_SIGMOID16_H

#include "edgedl_nn.h"

typedef struct {
    const uint16_t *table; /* [256]: 65536 / (1 + exp(-i / 24)) */
    int32_t multiplier;    /* of the input, then divided by 2^shift: to the scale 1 / (3 * 4096) */
    int32_t shift;
    int32_t count;
} ednn_sigmoid16_t;

/* The output's scale is 2^-15; `out` may be `in`. */
void ednn_logistic_s16(const ednn_sigmoid16_t *p, const int16_t *in, int16_t *out);
void ednn_tanh_s16(const ednn_sigmoid16_t *p, const int16_t *in, int16_t *out);

#endif
