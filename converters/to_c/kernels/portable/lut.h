/* Any function of one int8 value, by a table. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_LUT_H
#define EDNN_LUT_H

#include "edgedl_nn.h"

/* out[i] = table[in[i] + 128], for `count` values; `out` may be `in` */
void ednn_lut_s8(const int8_t *table, const int8_t *in, int8_t *out, int32_t count);

/* The same by the first of two tables for the first `head` values, by the second for the others. */
void ednn_lut_pair_s8(const int8_t *tables, const int8_t *in, int8_t *out, int32_t count, int32_t head);

/* out[i] = table[in[i] + 128]; apart from `in` */
void ednn_lut_s8_s16(const int16_t *table, const int8_t *in, int16_t *out, int32_t count);

#endif
