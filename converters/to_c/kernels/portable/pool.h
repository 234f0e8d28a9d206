/* Pooling of int8 and int16: the mean or the largest of each window. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_POOL_H
#define EDNN_POOL_H

#include "edgedl_nn.h"

typedef struct {
    int32_t in_h, in_w;
    int32_t out_h, out_w;
    int32_t channels;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
    int32_t least, largest;
} ednn_pool_t;

/* What of a window lies within the input: rows and columns, the last ones excluded. */
typedef struct {
    int32_t top, bottom, left, right;
} ednn_window_t;

static inline ednn_window_t ednn_pool_window(const ednn_pool_t *p, int32_t y, int32_t x)
{
    const int32_t top = y * p->stride_h - p->pad_top;
    const int32_t left = x * p->stride_w - p->pad_left;
    const ednn_window_t window = {
        top > 0 ? top : 0,
        top + p->kernel_h < p->in_h ? top + p->kernel_h : p->in_h,
        left > 0 ? left : 0,
        left + p->kernel_w < p->in_w ? left + p->kernel_w : p->in_w,
    };
    return window;
}

static inline int32_t ednn_pool_mean(int32_t sum, int32_t count)
{
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

#endif
