/* x, or x * slope below 0. SPDX-License-Identifier: 0BSD */
#include "prelu.h"

void ednn_prelu_s8(const ednn_prelu_t *p, const int8_t *in, int8_t *out)
{
    int32_t at = 0;
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = in[i] - p->zero;
        const int32_t y = x >= 0 ? ednn_rescale(x, p->multiplier, p->shift)
                                 : ednn_rescale(x * p->slopes[at], p->slope_multiplier, p->slope_shift);
        out[i] = (int8_t)ednn_clamp(y + p->out_zero, -128, 127);
        at = at + 1 == p->period ? 0 : at + 1;
    }
}
