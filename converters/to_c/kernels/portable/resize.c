/* Rows and columns come from tables. SPDX-License-Identifier: 0BSD */
#include "resize.h"

#include <string.h>

void ednn_resize_nearest(const ednn_nearest_t *p, const void *in, void *out)
{
    const uint8_t *from = (const uint8_t *)in;
    uint8_t *to = (uint8_t *)out;
    for (int32_t n = 0; n < p->batch; n++, from += p->in_h * p->in_w * p->bytes) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const uint8_t *row = from + p->rows[y] * p->in_w * p->bytes;
            for (int32_t x = 0; x < p->out_w; x++) {
                memcpy(to, row + p->columns[x] * p->bytes, (size_t)p->bytes);
                to += p->bytes;
            }
        }
    }
}

/* x / 2^20, halves away from zero; all that is below one half is 0. */
static inline int64_t rounded(int64_t x)
{
    return x > 0 ? (x + (1 << 19)) >> 20 : -((-x + (1 << 19)) >> 20);
}

#define BILINEAR(name, type)                                                                          \
    void name(const ednn_bilinear_t *p, const type *in, type *out)                                    \
    {                                                                                                 \
        for (int32_t n = 0; n < p->batch; n++, in += p->in_h * p->in_w * p->channels) {               \
            for (int32_t i = 0; i < p->out_h * p->out_w; i++) {                                       \
                const int16_t *row = p->rows + 3 * (i / p->out_w), *column = p->columns + 3 * (i % p->out_w); \
                const type *upper = in + row[0] * p->in_w * p->channels;                              \
                const type *lower = in + row[1] * p->in_w * p->channels;                              \
                const int32_t left = column[0] * p->channels, right = column[1] * p->channels;        \
                for (int32_t c = 0; c < p->channels; c++) {                                           \
                    const int64_t above = (int64_t)upper[left + c] * (1024 - column[2]) +             \
                                          (int64_t)upper[right + c] * column[2];                      \
                    const int64_t below = (int64_t)lower[left + c] * (1024 - column[2]) +             \
                                          (int64_t)lower[right + c] * column[2];                      \
                    *out++ = (type)rounded(above * (1024 - row[2]) + below * row[2]);                 \
                }                                                                                     \
            }                                                                                         \
        }                                                                                             \
    }

BILINEAR(ednn_resize_bilinear_s8, int8_t)
BILINEAR(ednn_resize_bilinear_s16, int16_t)
