/* Interpolation in a table of the logistic function; tanh(x) is 2 logistic(2 x) - 1. SPDX-License-Identifier: 0BSD */
#include "sigmoid16.h"

static inline int32_t scaled(const ednn_sigmoid16_t *p, int16_t x)
{
    const int32_t half = p->shift > 0 ? (int32_t)1 << (p->shift - 1) : 0;
    return (x * p->multiplier + half) >> p->shift;
}

/* The table at `x` / 2^bits. */
static inline uint32_t between(const uint16_t *table, uint32_t x, uint32_t bits)
{
    const uint32_t at = x >> bits, rest = x & ((1u << bits) - 1u);
    return ((uint32_t)table[at] << bits) + rest * (uint32_t)(table[at + 1] - table[at]);
}

void ednn_logistic_s16(const ednn_sigmoid16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = scaled(p, in[i]);
        const uint32_t size = (uint32_t)(x < 0 ? -x : x);
        uint32_t y = (size >> 9) >= 255 ? 0x7FFFu << 10 : between(p->table, size, 9);
        y = x >= 0 ? y + (1u << 9) : (1u << 25) - y + (1u << 9) - 1u;
        out[i] = (int16_t)(y >> 10);
    }
}

void ednn_tanh_s16(const ednn_sigmoid16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = scaled(p, in[i]);
        const uint32_t size = (uint32_t)(x < 0 ? -x : x);
        int32_t y = (size >> 8) >= 255 ? 0xFFFF << 8 : (int32_t)between(p->table, size, 8);
        y = x >= 0 ? y - (1 << 23) + (1 << 7) : -y + (1 << 23) + (1 << 7) - 1;
        out[i] = (int16_t)(y >> 8);
    }
}
