/* Each filter keeps its last `memory` features and weighs them in time. SPDX-License-Identifier: 0BSD */
#include "svdf.h"

static int32_t feature(const ednn_svdf_t *p, const int8_t *weights, const int8_t *in)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < p->inputs; i++) {
        sum += weights[i] * (in[i] - p->zero);
    }
    return ednn_clamp(ednn_rescale(sum, p->state_multiplier, p->state_shift), INT16_MIN, INT16_MAX);
}

void ednn_svdf_s8(const ednn_svdf_t *p, const int8_t *in, int16_t *state, int8_t *out)
{
    for (int32_t n = 0; n < p->batch; n++, in += p->inputs) {
        for (int32_t u = 0; u < p->units; u++) {
            int32_t sum = 0;
            for (int32_t r = 0; r < p->rank; r++, state += p->memory) {
                const int32_t filter = u * p->rank + r;
                const int16_t *weights = p->time + filter * p->memory;
                for (int32_t t = 0; t + 1 < p->memory; t++) {
                    state[t] = state[t + 1];
                    sum += weights[t] * state[t];
                }
                state[p->memory - 1] = (int16_t)feature(p, p->features + filter * p->inputs, in);
                sum += weights[p->memory - 1] * state[p->memory - 1];
            }
            sum = ednn_rescale(sum + p->bias[u], p->multiplier, p->shift) + p->out_zero;
            *out++ = (int8_t)ednn_clamp(sum, -128, 127);
        }
    }
}
