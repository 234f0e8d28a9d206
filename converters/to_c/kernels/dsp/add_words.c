/* Sum of two int8 tensors of one shape on Armv7E-M, four elements at a time. SPDX-License-Identifier: 0BSD */
#include "add_words.h"
#include "elementwise_words.h"

static inline uint32_t one(ednn_add_factors_t p, uint32_t a, uint32_t b, int32_t at)
{
    const int32_t sum = ednn_lane(a, at) * p.a + p.offset + ednn_lane(b, at) * p.b;
    return ednn_saturated(sum >> p.shift, at);
}

void ednn_add_words_s8(const ednn_add_words_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    const ednn_add_factors_t k = p->blocks, last = p->rest; /* in registers: no store can change them */
    const int32_t count = p->count, whole = count / 16 * 16;
    int32_t i = 0;
    for (; i < whole; i += 4) {
        const uint32_t x = ednn_load(a + i);
        const uint32_t y = ednn_load(b + i);
        ednn_store(out + i, one(k, x, y, 0) | one(k, x, y, 8) | one(k, x, y, 16) | one(k, x, y, 24));
    }
    for (; i < count; i++) {
        out[i] = (int8_t)ednn_lane(one(last, (uint8_t)a[i], (uint8_t)b[i], 0), 0);
    }
}
