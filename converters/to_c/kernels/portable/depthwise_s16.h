/* Depthwise convolution of int16: the parameters are those of int8. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DEPTHWISE_S16_H
#define EDNN_DEPTHWISE_S16_H

#include "depthwise.h"

void ednn_depthwise_s16(const ednn_depthwise_t *p, const int16_t *in, int16_t *out);

#endif
