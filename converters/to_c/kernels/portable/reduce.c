/* Every output value goes over its inputs in their order. SPDX-License-Identifier: 0BSD */
#include "reduce.h"

typedef struct {
    int32_t at[EDNN_REDUCE_RANK];
    int32_t offset;
} walk_t;

/* One step in raster order; 0 at the end, where it stands at the first value again. */
static int step(const int32_t *axes, walk_t *w)
{
    for (int32_t d = EDNN_REDUCE_RANK - 1; d >= 0; d--) {
        w->offset += axes[2 * d + 1];
        if (++w->at[d] < axes[2 * d]) {
            return 1;
        }
        w->offset -= axes[2 * d] * axes[2 * d + 1];
        w->at[d] = 0;
    }
    return 0;
}

/* How many thresholds, in rising order, are at most x. */
static int32_t reached(const int32_t *thresholds, int32_t x)
{
    int32_t low = 0, high = 255;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (thresholds[middle] <= x) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int32_t finished(const ednn_reduce_t *p, int32_t sum, int32_t at)
{
    if (p->thresholds != NULL) {
        return reached(p->thresholds, sum) - 128;
    }
    const int32_t x = sum - p->offset;
    const int32_t y = at % p->period < p->upward ? ednn_rescale_up(x, p->multiplier, p->shift)
                                                 : ednn_rescale(x, p->multiplier, p->shift);
    return ednn_clamp(y + p->out_zero, p->least, p->largest);
}

void ednn_mean_s8(const ednn_reduce_t *p, const int8_t *in, int8_t *out)
{
    const int32_t *kept = p->axes, *gone = p->axes + 2 * EDNN_REDUCE_RANK;
    walk_t k = {{0}, 0}, g = {{0}, 0};
    int32_t at = 0;
    do {
        int32_t sum = 0;
        do {
            sum += in[k.offset + g.offset];
        } while (step(gone, &g));
        *out++ = (int8_t)finished(p, sum, at++);
    } while (step(kept, &k));
}

void ednn_mean_s16(const ednn_reduce_t *p, const int16_t *in, int16_t *out)
{
    const int32_t *kept = p->axes, *gone = p->axes + 2 * EDNN_REDUCE_RANK;
    walk_t k = {{0}, 0}, g = {{0}, 0};
    int32_t at = 0;
    do {
        int32_t sum = 0;
        do {
            sum += in[k.offset + g.offset];
        } while (step(gone, &g));
        *out++ = (int16_t)finished(p, sum, at++);
    } while (step(kept, &k));
}

#define EXTREME(name, type, better)                                                       \
    void name(const ednn_reduce_t *p, const type *in, type *out)                          \
    {                                                                                     \
        const int32_t *kept = p->axes, *gone = p->axes + 2 * EDNN_REDUCE_RANK;            \
        walk_t k = {{0}, 0}, g = {{0}, 0};                                                \
        do {                                                                              \
            type best = in[k.offset];                                                     \
            do {                                                                          \
                const type x = in[k.offset + g.offset];                                   \
                best = x better best ? x : best;                                          \
            } while (step(gone, &g));                                                     \
            *out++ = best;                                                                \
        } while (step(kept, &k));                                                         \
    }

EXTREME(ednn_max_s8, int8_t, >)
EXTREME(ednn_min_s8, int8_t, <)
EXTREME(ednn_max_s16, int16_t, >)
EXTREME(ednn_min_s16, int16_t, <)
