/* Integers of another type or scale; floats at a model's border. SPDX-License-Identifier: 0BSD */
#include "requantize.h"

#include <string.h>

static int64_t load(const void *from, int32_t i, int32_t kind)
{
    int64_t wide;
    switch (kind) {
    case 1:
        return ((const int8_t *)from)[i];
    case 2:
        return ((const int16_t *)from)[i];
    case 4:
        return ((const int32_t *)from)[i];
    case 8:
        memcpy(&wide, (const uint8_t *)from + 8 * i, 8); /* aligned to 4 bytes only */
        return wide;
    default:
        return ((const uint8_t *)from)[i];
    }
}

static void store(void *to, int32_t i, int32_t kind, int64_t x)
{
    const uint64_t bits = (uint64_t)x; /* what does not fit is cut off */
    switch (kind) {
    case 1:
    case 5:
        ((uint8_t *)to)[i] = (uint8_t)(bits & 0xFFu);
        break;
    case 2:
        ((uint16_t *)to)[i] = (uint16_t)(bits & 0xFFFFu);
        break;
    case 4:
        ((uint32_t *)to)[i] = (uint32_t)(bits & 0xFFFFFFFFu);
        break;
    case 8:
        memcpy((uint8_t *)to + 8 * i, &bits, 8);
        break;
    default:
        ((uint8_t *)to)[i] = x != 0;
        break;
    }
}

void ednn_requantize(const ednn_requantize_t *p, const void *in, void *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = (int32_t)load(in, i, p->in_kind) - p->zero;
        const int64_t y = (int64_t)ednn_rescale(x, p->multiplier, p->shift) + p->out_zero;
        store(out, i, p->out_kind, y < p->least ? p->least : (y > p->largest ? p->largest : y));
    }
}

void ednn_cast(const ednn_cast_t *p, const void *in, void *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        store(out, i, p->out_kind, load(in, i, p->in_kind));
    }
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Halves to the even one; what is beyond 2^20, and what is no number, becomes +-2^20. */
static int32_t rounded(float x)
{
    const float most = 1048576.0f;
    if (!(x > -most)) {
        return -1048576;
    }
    if (x > most) {
        return 1048576;
    }
    const int32_t whole = (int32_t)x;
    const float rest = x - (float)whole; /* exact */
    const int half = whole & 1;
    return whole + ((rest > 0.5f || (rest >= 0.5f && half)) ? 1 : 0) - ((rest < -0.5f || (rest <= -0.5f && half)) ? 1 : 0);
}

/* Halves away from zero. */
static int32_t rounded_away(double x)
{
    const double most = 1048576.0;
    if (!(x > -most)) {
        return -1048576;
    }
    return x > most ? 1048576 : (int32_t)(x < 0.0 ? x - 0.5 : x + 0.5);
}

void ednn_from_float(const ednn_float_t *p, const float *in, void *out)
{
    const float scale = from_bits(p->scale), inverse = from_bits(p->inverse);
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = i < p->head ? rounded(in[i] * inverse) : rounded_away((double)in[i] / (double)scale);
        store(out, i, p->kind, ednn_clamp(x + p->zero, p->least, p->largest));
    }
}

void ednn_to_float(const ednn_float_t *p, const void *in, float *out)
{
    const float scale = from_bits(p->scale), offset = from_bits(p->offset);
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = (int32_t)load(in, i, p->kind);
        volatile float product = scale * (float)(i < p->head ? x : x - p->zero); /* rounded before the sum, not fused */
        out[i] = i < p->head ? product + offset : product;
    }
}
