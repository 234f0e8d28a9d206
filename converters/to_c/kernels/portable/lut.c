/* Tables of 256 entries. SPDX-License-Identifier: 0BSD */
#include "lut.h"

void ednn_lut_s8(const int8_t *table, const int8_t *in, int8_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = table[in[i] + 128];
    }
}

void ednn_lut_pair_s8(const int8_t *tables, const int8_t *in, int8_t *out, int32_t count, int32_t head)
{
    ednn_lut_s8(tables, in, out, head);
    ednn_lut_s8(tables + 256, in + head, out + head, count - head);
}

void ednn_lut_s8_s16(const int16_t *table, const int8_t *in, int16_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = table[in[i] + 128];
    }
}
