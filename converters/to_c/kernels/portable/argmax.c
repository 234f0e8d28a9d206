/* The place of the largest value. SPDX-License-Identifier: 0BSD */
#include "argmax.h"

static int32_t place(const ednn_argmax_t *p, const int8_t *in)
{
    int32_t best = 0;
    for (int32_t i = 1; i < p->size; i++) {
        if (p->sign * in[i * p->inner] > p->sign * in[best * p->inner]) {
            best = i;
        }
    }
    return best;
}

void ednn_argmax_s8(const ednn_argmax_t *p, const int8_t *in, int32_t *out)
{
    for (int32_t o = 0; o < p->outer; o++, in += p->size * p->inner) {
        for (int32_t i = 0; i < p->inner; i++) {
            *out++ = place(p, in + i);
        }
    }
}

void ednn_argmax_s8_s64(const ednn_argmax_t *p, const int8_t *in, int32_t *out)
{
    for (int32_t o = 0; o < p->outer; o++, in += p->size * p->inner) {
        for (int32_t i = 0; i < p->inner; i++) {
            *out++ = place(p, in + i);
            *out++ = 0;
        }
    }
}
