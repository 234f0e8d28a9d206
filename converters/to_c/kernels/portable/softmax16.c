/* Softmax of int16 by two tables, as TensorFlow Lite. SPDX-License-Identifier: 0BSD */
#include "softmax16.h"

static inline int32_t looked_up(const int16_t *table, int32_t x)
{
    const int32_t at = ednn_clamp(x, -32768, 32767) + 32768, rest = at & 0x7F;
    const int32_t base = table[at >> 7], slope = table[(at >> 7) + 1] - base;
    return base + ((slope * rest + 64) >> 7);
}

void ednn_softmax_s16(const ednn_softmax16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        int32_t most = INT16_MIN, room = 0;
        int64_t sum = 0;
        for (int32_t i = 0; i < p->depth; i++) {
            most = in[i] > most ? in[i] : most;
        }
        for (int32_t i = 0; i < p->depth; i++) {
            const int32_t x = looked_up(p->exp, ednn_rescale(in[i] - most, p->multiplier, p->shift) + 32767);
            out[i] = (int16_t)x;
            sum += x;
        }
        while ((sum << room) < ((int64_t)1 << 30)) { /* the zeros before the highest bit of 31 */
            room++;
        }
        const int32_t whole = (int32_t)(((sum << room) + (1 << 13)) >> 14);
        const int32_t inverse = looked_up(p->inverse, whole - (1 << 15) - (1 << 16));
        const int32_t right = 30 - room;
        for (int32_t i = 0; i < p->depth; i++) {
            const int64_t x = ((int64_t)out[i] * inverse + ((int64_t)1 << (right - 1))) >> right;
            out[i] = (int16_t)ednn_clamp((int32_t)x, 0, 32767);
        }
    }
}
