/* Sum (or difference) of two int16 tensors of any scales in plain C. SPDX-License-Identifier: 0BSD */
#include "add_s16.h"

#define LEFT 15 /* bits that the inputs are shifted up by, as in LiteRT */

/* `x` scaled: rounded once, or twice. */
static inline int32_t operand(int32_t x, int32_t multiplier, int32_t right, int once)
{
    return once ? ednn_high_mul(x * (1 << (LEFT - right)), multiplier)
                : ednn_rounded_shift(ednn_high_mul(x * (1 << LEFT), multiplier), right);
}

static int32_t add_one(const ednn_add_s16_t *p, int once, int32_t a, int32_t b)
{
    const int32_t sum = operand(a, p->a_multiplier, p->a_right, once) + p->sign * operand(b, p->b_multiplier, p->b_right, once);
    return ednn_clamp(ednn_rescale(sum, p->out_multiplier, p->out_shift), p->least, p->largest);
}

void ednn_add_s16(const ednn_add_s16_t *p, const int16_t *a, const int16_t *b, int16_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            *out++ = (int16_t)add_one(p, i < p->whole, a[place.a + i * p->pairs.step_a], b[place.b + i * p->pairs.step_b]);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
