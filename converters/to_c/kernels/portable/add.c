/* Sum (or difference) of two int8 tensors of any scales in plain C. SPDX-License-Identifier: 0BSD */
#include "add.h"

/* Of operands rounded twice, as LiteRT's scalar code does. */
static int32_t add_rest(const ednn_add_one_t *p, int32_t sign, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul((a - p->a_zero) * (1 << EDNN_ADD_LEFT), p->a_multiplier);
    const int32_t right = ednn_high_mul((b - p->b_zero) * (1 << EDNN_ADD_LEFT), p->b_multiplier);
    return ednn_add_result(p, ednn_rounded_shift(left, p->a_right) + sign * ednn_rounded_shift(right, p->b_right));
}

/* Of operands rounded, then rounded down, as LiteRT does where one of them is the same along a row. */
static int32_t add_repeated(const ednn_add_one_t *p, int32_t a, int32_t b)
{
    const int32_t left = ednn_high_mul((a - p->a_zero) * (1 << EDNN_ADD_LEFT), p->a_multiplier);
    const int32_t right = ednn_high_mul((b - p->b_zero) * (1 << EDNN_ADD_LEFT), p->b_multiplier);
    return ednn_add_result(p, (left >> p->a_right) + (right >> p->b_right));
}

/* Element `i` of a row. */
static inline int32_t add(const ednn_add_s8_t *p, int32_t i, int32_t a, int32_t b)
{
    if (i >= p->whole) {
        return add_rest(&p->one, p->sign, a, b);
    }
    return p->repeated ? add_repeated(&p->one, a, b) : ednn_add_one(&p->one, a, b);
}

void ednn_add_s8(const ednn_add_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    ednn_place_t place = {{0}, 0, 0};
    for (int32_t row = 0; row < p->pairs.rows; row++) {
        for (int32_t i = 0; i < p->pairs.length; i++) {
            *out++ = (int8_t)add(p, i, a[place.a + i * p->pairs.step_a], b[place.b + i * p->pairs.step_b]);
        }
        ednn_next_row(&p->pairs, &place);
    }
}
