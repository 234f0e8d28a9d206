/* One value after another, with the steps of each operand. SPDX-License-Identifier: 0BSD */
#include "compare.h"

#include <string.h>

/* To the next value of the output; 0 at the end. `offsets` of a, b and, with three operands, the condition. */
static int next(const int32_t *axes, int32_t operands, int32_t *at, int32_t *offsets)
{
    for (int32_t d = EDNN_COMPARE_RANK - 1; d >= 0; d--) {
        const int more = ++at[d] < axes[d];
        for (int32_t i = 0; i < operands; i++) {
            const int32_t step = axes[(i + 1) * EDNN_COMPARE_RANK + d];
            offsets[i] += more ? step : -(axes[d] - 1) * step;
        }
        if (more) {
            return 1;
        }
        at[d] = 0;
    }
    return 0;
}

static int32_t load(const void *from, int32_t i, int32_t bytes)
{
    return bytes == 1 ? ((const int8_t *)from)[i] : (bytes == 2 ? ((const int16_t *)from)[i] : ((const int32_t *)from)[i]);
}

static int holds(int32_t relation, int32_t a, int32_t b)
{
    switch (relation) {
    case 0:
        return a == b;
    case 1:
        return a != b;
    case 2:
        return a < b;
    case 3:
        return a <= b;
    case 4:
        return a > b;
    default:
        return a >= b;
    }
}

void ednn_compare(const ednn_compare_t *p, const void *a, const void *b, uint8_t *out)
{
    int32_t at[EDNN_COMPARE_RANK] = {0}, offsets[2] = {0};
    do {
        int32_t x = load(a, offsets[0], p->bytes), y = load(b, offsets[1], p->bytes);
        if (p->scaled) {
            x = ednn_rescale((x - p->a_zero) * 256, p->a_multiplier, p->a_shift);
            y = ednn_rescale((y - p->b_zero) * 256, p->b_multiplier, p->b_shift);
        }
        *out++ = holds(p->relation, x, y) ? 1 : 0;
    } while (next(p->axes, 2, at, offsets));
}

void ednn_select(const ednn_compare_t *p, const uint8_t *condition, const void *a, const void *b, void *out)
{
    int32_t at[EDNN_COMPARE_RANK] = {0}, offsets[3] = {0};
    uint8_t *to = (uint8_t *)out;
    do {
        const uint8_t *from = condition[offsets[2]] ? (const uint8_t *)a + offsets[0] * p->bytes
                                                    : (const uint8_t *)b + offsets[1] * p->bytes;
        memcpy(to, from, (size_t)p->bytes);
        to += p->bytes;
    } while (next(p->axes, 3, at, offsets));
}
