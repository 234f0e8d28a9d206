/* Mean value of each window, int8. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_POOL_AVERAGE_H
#define EDNN_POOL_AVERAGE_H

#include "pool.h"

void ednn_pool_average_s8(const ednn_pool_t *p, const int8_t *in, int8_t *out);

#endif
