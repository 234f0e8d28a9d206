/* 1 / sqrt(sum of squares) by Newton's method in fixed point, as gemmlowp. SPDX-License-Identifier: 0BSD */
#include "l2norm.h"

static int32_t shifted_left(int32_t x, int32_t by)
{
    const int64_t wide = (int64_t)x * ((int64_t)1 << by);
    return wide > INT32_MAX ? INT32_MAX : (wide < INT32_MIN ? INT32_MIN : (int32_t)wide);
}

/* The multiplier of 1 / sqrt(x), x >= 0; its shift, to the left, in *shift. */
static int32_t inverse_root(int32_t x, int32_t *shift)
{
    int32_t right = 11, root = 1 << 28;
    if (x <= 1) {
        *shift = 0;
        return INT32_MAX;
    }
    while (x >= (1 << 29)) {
        x /= 4;
        right++;
    }
    while (x < (1 << 27)) { /* to 2^27..2^29, by pairs of bits */
        x *= 4;
        right--;
    }
    const int32_t given = x >> 1, half = ednn_rounded_shift(given, 1), three_halves = (1 << 28) + (1 << 27);
    for (int32_t i = 0; i < 5; i++) {
        const int32_t cube = shifted_left(ednn_high_mul(ednn_high_mul(root, root), root), 6);
        root = shifted_left(ednn_high_mul(three_halves, root) - ednn_high_mul(half, cube), 3);
    }
    root = ednn_high_mul(root, 1518500250); /* sqrt(1/2) */
    *shift = right < 0 ? 0 : -right;
    return right < 0 ? (int32_t)((uint32_t)root << -right) : root;
}

void ednn_l2norm_s8(const ednn_l2norm_t *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->depth, out += p->depth) {
        int32_t sum = 0, shift;
        for (int32_t i = 0; i < p->depth; i++) {
            const int32_t x = in[i] - p->zero;
            sum += x * x;
        }
        const int32_t multiplier = inverse_root(sum, &shift);
        for (int32_t i = 0; i < p->depth; i++) {
            out[i] = (int8_t)ednn_clamp(ednn_rescale(in[i] - p->zero, multiplier, shift + 7), -128, 127);
        }
    }
}
