/* Two factors, one for each sign. SPDX-License-Identifier: 0BSD */
#include "relu16.h"

void ednn_relu_s16(const ednn_relu16_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = in[i];
        const int32_t y = x >= 0 ? ednn_rescale(x, p->multiplier, p->shift)
                                 : ednn_rescale(x * p->below, p->below_multiplier, p->below_shift);
        out[i] = (int16_t)ednn_clamp(y, p->least, p->largest);
    }
}
