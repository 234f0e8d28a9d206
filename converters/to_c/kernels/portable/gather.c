/* Rows by indices; none is ever read outside of the table. SPDX-License-Identifier: 0BSD */
#include "gather.h"

#include <string.h>

void ednn_gather(const ednn_gather_t *p, const void *in, const int32_t *indices, void *out)
{
    const uint8_t *from = (const uint8_t *)in;
    uint8_t *to = (uint8_t *)out;
    for (int32_t o = 0; o < p->outer; o++) {
        for (int32_t i = 0; i < p->count; i++) {
            memcpy(to, from + ednn_clamp(indices[i], 0, p->rows - 1) * p->bytes, (size_t)p->bytes);
            to += p->bytes;
        }
        from += p->rows * p->bytes;
    }
}

void ednn_gather_nd(const ednn_gather_nd_t *p, const void *in, const int32_t *indices, void *out)
{
    const uint8_t *from = (const uint8_t *)in;
    uint8_t *to = (uint8_t *)out;
    for (int32_t i = 0; i < p->count; i++) {
        int32_t at = 0;
        for (int32_t d = 0; d < p->depth; d++) {
            at = at * p->sizes[d] + ednn_clamp(*indices++, 0, p->sizes[d] - 1);
        }
        memcpy(to, from + at * p->bytes, (size_t)p->bytes);
        to += p->bytes;
    }
}
