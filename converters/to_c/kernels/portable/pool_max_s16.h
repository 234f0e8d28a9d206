/* Largest value of each window, int16. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_POOL_MAX_S16_H
#define EDNN_POOL_MAX_S16_H

#include "pool.h"

void ednn_pool_max_s16(const ednn_pool_t *p, const int16_t *in, int16_t *out);

#endif
