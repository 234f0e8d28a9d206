/* Largest value of each window, int16, in plain C. SPDX-License-Identifier: 0BSD */
#include "pool_max_s16.h"

static int32_t of_window(const ednn_pool_t *p, const int16_t *in, ednn_window_t w)
{
    int32_t found = INT16_MIN;
    for (int32_t y = w.top; y < w.bottom; y++) {
        const int16_t *row = in + y * p->in_w * p->channels;
        for (int32_t x = w.left; x < w.right; x++) {
            found = row[x * p->channels] > found ? row[x * p->channels] : found;
        }
    }
    return found;
}

void ednn_pool_max_s16(const ednn_pool_t *p, const int16_t *in, int16_t *out)
{
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            const ednn_window_t w = ednn_pool_window(p, y, x);
            for (int32_t c = 0; c < p->channels; c++) {
                *out++ = (int16_t)ednn_clamp(of_window(p, in + c, w), p->least, p->largest);
            }
        }
    }
}
