/* Gates in fixed point of 16 bits: gemmlowp's logistic and tanh. SPDX-License-Identifier: 0BSD */
#include "lstm.h"

static inline int32_t mul(int32_t a, int32_t b) /* SaturatingRoundingDoublingHighMul of int16 */
{
    return (a == INT16_MIN && b == INT16_MIN) ? INT16_MAX : (a * b + (1 << 14)) >> 15;
}

static inline int32_t saturated(int32_t x)
{
    return ednn_clamp(x, INT16_MIN, INT16_MAX);
}

static inline int32_t cut(int32_t x) /* as an int16 overflows */
{
    return (int16_t)(uint16_t)((uint32_t)x & 0xFFFFu);
}

/* exp(a) for a in -1/4..0, scale 2^-15 */
static int32_t exp_of_quarter(int32_t a)
{
    const int32_t eighth = 28918, third = 10923; /* exp(-1/8), 1/3 */
    const int32_t x = a + (1 << 12), x2 = mul(x, x), x3 = mul(x2, x), x4 = mul(x2, x2);
    const int32_t rest = ednn_rounded_shift(mul(ednn_rounded_shift(x4, 2) + x3, third) + x2, 1);
    return saturated(eighth + mul(eighth, x + rest));
}

/* exp(a), a <= 0 with `bits` integer bits */
static int32_t exp_of_negative(int32_t a, int32_t bits)
{
    static const int16_t factors[7] = {25520, 19875, 12055, 4435, 600, 11, 0}; /* exp of -1/4, -1/2, -1 ... -16 */
    const int32_t fraction = 15 - bits, quarter = 1 << (fraction - 2);
    const int32_t inside = (a & (quarter - 1)) - quarter, rest = inside - a;
    int32_t result = exp_of_quarter(inside * (1 << bits));
    if (a == 0) {
        return INT16_MAX;
    }
    for (int32_t i = 0; i < 7 && i - 2 < bits; i++) {
        if (rest & (1 << (fraction - 2 + i))) {
            result = mul(result, factors[i]);
        }
    }
    return result;
}

/* 2 / (1 + a) - 1 (with `half`: half of 2 / (1 + a)) for a in 0..1, by Newton's method */
static int32_t inverse(int32_t a, int half)
{
    const int32_t denominator = (a + INT16_MAX + 1) >> 1; /* half of 1 + a */
    int32_t x = 23130 + mul(denominator, -15420);         /* 48/17 - 32/17 d, 2 integer bits */
    for (int32_t i = 0; i < 3; i++) {
        const int32_t left = cut((1 << 13) - mul(denominator, x));
        x = cut(x + saturated(mul(x, left) * 4));
    }
    return half ? saturated(x * 2) : saturated(cut(x - (1 << 13)) * 4);
}

/* 1 / (1 + exp(-a)), a with 3 integer bits */
static int32_t logistic(int32_t a)
{
    const int32_t y = inverse(exp_of_negative(a > 0 ? -a : a, 3), 1);
    return a == 0 ? 1 << 14 : (a > 0 ? y : INT16_MAX - y);
}

/* tanh(a), a with `bits` integer bits */
static int32_t hyperbolic(int32_t a, int32_t bits)
{
    const int32_t y = inverse(exp_of_negative(a > 0 ? -a : a, bits + 1), 0);
    return a == 0 ? 0 : (a > 0 ? y : -y);
}

static int32_t dot(const int8_t *weights, const int8_t *x, int32_t length, int32_t sum)
{
    for (int32_t i = 0; i < length; i++) {
        sum += weights[i] * x[i];
    }
    return sum;
}

static void gate(const ednn_lstm_t *p, int32_t which, const int8_t *in, const int8_t *state, int16_t *out)
{
    const int32_t *r = p->rescaling + 4 * which;
    for (int32_t c = 0; c < p->cells; c++) {
        const int32_t at = which * p->cells + c;
        const int32_t x = dot(p->in_weights + at * p->inputs, in, p->inputs, p->in_bias[at]);
        const int32_t h = dot(p->out_weights + at * p->cells, state, p->cells, p->out_bias[at]);
        const int32_t first = saturated(ednn_rescale(x, r[0], r[1]));
        const int32_t both = saturated(first + ednn_rescale(h, r[2], r[3]));
        out[c] = (int16_t)(which == 2 ? hyperbolic(both, 3) : logistic(both));
    }
}

static void step(const ednn_lstm_t *p, const int8_t *in, int8_t *state, int16_t *cell, int16_t *gates)
{
    for (int32_t which = 0; which < 4; which++) {
        gate(p, which, in, state, gates + which * p->cells);
    }
    for (int32_t c = 0; c < p->cells; c++) {
        const int32_t input = gates[c], forget = gates[p->cells + c], change = gates[2 * p->cells + c];
        const int32_t kept = ednn_rounded_shift(forget * cell[c], 15);
        const int32_t added = ednn_rounded_shift(input * change, 30 - p->cell_bits);
        int32_t sum = saturated(kept + added);
        if (p->clip > 0) {
            sum = ednn_clamp(sum, -p->clip, p->clip);
        }
        cell[c] = (int16_t)sum;
        const int32_t y = gates[3 * p->cells + c] * hyperbolic(sum, 15 - p->cell_bits);
        state[c] = (int8_t)ednn_clamp(ednn_rescale(y, p->multiplier, p->shift) + p->out_zero, -128, 127);
    }
}

void ednn_lstm_s8(const ednn_lstm_t *p, const int8_t *in, int8_t *state, int16_t *cell, int8_t *out, int16_t *scratch)
{
    for (int32_t t = 0; t < p->steps; t++) {
        for (int32_t n = 0; n < p->batch; n++) {
            int8_t *mine = state + n * p->cells;
            step(p, in + n * p->in_batch + t * p->in_step, mine, cell + n * p->cells, scratch);
            for (int32_t c = 0; c < p->cells; c++) {
                out[n * p->out_batch + t * p->out_step + c] = mine[c];
            }
        }
    }
}
