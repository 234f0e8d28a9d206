/* Convolution of int8 on Armv7E-M: the patches of four pixels are expanded to 16 bits, then multiplied by pairs of channels.

   Order of k: of each row of the kernel as many bytes as make whole words; then what is left of all rows. SPDX-License-Identifier: 0BSD */
#include "conv_blocks.h"

#include "matrix.h"

#include <string.h>

#if defined(__GNUC__)
#define APART __attribute__((noinline)) /* where a copy at every call would only cost flash */
#else
#define APART
#endif

typedef struct {
    const ednn_conv_blocks_t *p;
    const int8_t *in;
    uint32_t *lanes;
    int8_t *row;   /* a row of the kernel as it lies under it, where it is not in one piece */
    int8_t *rest;  /* bytes of rows that make no whole word */
    int32_t run;   /* bytes of a row of the kernel */
    int32_t left;  /* bytes of `rest` for one pixel */
    int32_t x, y;  /* of the next pixel */
} state_t;

/* 4 * words int8 into one lane. Returns where the lane goes on. */
static APART uint32_t *expand(uint32_t *lane, const int8_t *from, int32_t words)
{
    for (; words >= 4; words -= 4, from += 16, lane += 8 * EDNN_LANES) {
        const uint32_t a = ednn_load(from), b = ednn_load(from + 4);
        const uint32_t c = ednn_load(from + 8), d = ednn_load(from + 12);
        lane[0] = ednn_even(a);
        lane[EDNN_LANES] = ednn_odd(a);
        lane[2 * EDNN_LANES] = ednn_even(b);
        lane[3 * EDNN_LANES] = ednn_odd(b);
        lane[4 * EDNN_LANES] = ednn_even(c);
        lane[5 * EDNN_LANES] = ednn_odd(c);
        lane[6 * EDNN_LANES] = ednn_even(d);
        lane[7 * EDNN_LANES] = ednn_odd(d);
    }
    for (; words > 0; words--, from += 4, lane += 2 * EDNN_LANES) {
        const uint32_t x = ednn_load(from);
        lane[0] = ednn_even(x);
        lane[EDNN_LANES] = ednn_odd(x);
    }
    return lane;
}

/* 4 * words int8 of four pixels that lie `pitch` bytes from one another into the four lanes. */
static APART uint32_t *expand_four(uint32_t *lanes, const int8_t *from, int32_t pitch, int32_t words)
{
    for (; words > 0; words--, from += 4, lanes += 2 * EDNN_LANES) {
        const uint32_t a = ednn_load(from), b = ednn_load(from + pitch);
        const uint32_t c = ednn_load(from + 2 * pitch), d = ednn_load(from + 3 * pitch);
        lanes[0] = ednn_even(a);
        lanes[1] = ednn_even(b);
        lanes[2] = ednn_even(c);
        lanes[3] = ednn_even(d);
        lanes[4] = ednn_odd(a);
        lanes[5] = ednn_odd(b);
        lanes[6] = ednn_odd(c);
        lanes[7] = ednn_odd(d);
    }
    return lanes;
}

/* A row of the kernel, copied: what lies beside the input is its zero point. */
static APART const int8_t *copied(const state_t *s, int32_t top, int32_t left, int32_t first)
{
    const ednn_conv_blocks_t *p = s->p;
    const int32_t depth = p->in_c / p->groups;
    int8_t *to = s->row;
    memset(to, p->zero, (size_t)s->run);
    if (top >= 0 && top < p->in_h) {
        const int8_t *from = s->in + top * p->in_w * p->in_c + first;
        for (int32_t j = 0; j < p->kernel_w; j++, to += depth, left += p->dilation_w) {
            if (left >= 0 && left < p->in_w) {
                memcpy(to, from + left * p->in_c, (size_t)depth);
            }
        }
    }
    return s->row;
}

/* The patch of the next pixel and the group that begins at channel `first` into one lane. */
static void gather(const state_t *s, int32_t lane_index, int32_t first)
{
    const ednn_conv_blocks_t *p = s->p;
    const int32_t left = s->x * p->stride_w - p->pad_left;
    const int32_t whole = s->run / 4, odd = s->run % 4;
    const int direct = left >= 0 && left + p->kernel_w <= p->in_w && p->dilation_w == 1 && p->groups == 1;
    int32_t top = s->y * p->stride_h - p->pad_top;
    uint32_t *lane = s->lanes + lane_index;
    int8_t *rest = s->rest;
    for (int32_t i = 0; i < p->kernel_h; i++, top += p->dilation_h) {
        const int8_t *from = direct && top >= 0 && top < p->in_h ? s->in + (top * p->in_w + left) * p->in_c
                                                                 : copied(s, top, left, first);
        lane = expand(lane, from, whole);
        for (int32_t k = 0; k < odd; k++) {
            *rest++ = from[4 * whole + k];
        }
    }
    if (odd > 0) {
        expand(lane, s->rest, (odd * p->kernel_h + 3) / 4);
    }
}

/* The patches of the next four pixels at once, if they lie in one row and no column of them beside the input. Returns
   whether they do. */
static int gather_four(const state_t *s)
{
    const ednn_conv_blocks_t *p = s->p;
    const int32_t left = s->x * p->stride_w - p->pad_left, pitch = p->stride_w * p->in_c;
    const int32_t whole = s->run / 4, odd = s->run % 4;
    uint32_t *lanes = s->lanes;
    int8_t *rest = s->rest;
    int32_t top = s->y * p->stride_h - p->pad_top;
    if (p->dilation_w != 1 || p->groups != 1 || s->x + EDNN_LANES > p->out_w || left < 0 ||
        left + (EDNN_LANES - 1) * p->stride_w + p->kernel_w > p->in_w) {
        return 0;
    }
    for (int32_t i = 0; i < p->kernel_h; i++, top += p->dilation_h) {
        const int inside = top >= 0 && top < p->in_h;
        const int8_t *from = inside ? s->in + (top * p->in_w + left) * p->in_c : copied(s, top, left, 0);
        const int32_t step = inside ? pitch : 0;
        lanes = expand_four(lanes, from, step, whole);
        for (int32_t k = 4 * whole; k < s->run; k++, rest++) {
            rest[0] = from[k];
            rest[s->left] = from[k + step];
            rest[2 * s->left] = from[k + 2 * step];
            rest[3 * s->left] = from[k + 3 * step];
        }
    }
    if (odd > 0) {
        expand_four(lanes, s->rest, s->left, s->left / 4);
    }
    return 1;
}

static void next(state_t *s)
{
    if (++s->x == s->p->out_w) {
        s->x = 0;
        s->y++;
    }
}

/* A lane as int8 again, at the beginning of the lanes: what a single pixel is computed from. */
static const int8_t *packed(uint32_t *lanes, int32_t quads)
{
    for (int32_t i = 0; i < quads; i++) {
        const uint32_t even = lanes[8 * i], odd = lanes[8 * i + EDNN_LANES];
        lanes[i] = (even & 0x00FF00FFu) | (odd & 0x00FF00FFu) << 8;
    }
    return (const int8_t *)lanes;
}

/* All channels of the next `pixels` (4, or 1) pixels. */
static void multiply(state_t *s, int32_t pixels, int8_t *out)
{
    const ednn_conv_blocks_t *p = s->p;
    const int32_t each = p->out_c / p->groups, pairs = (each + 1) / 2, x = s->x, y = s->y;
    const int8_t *weights = p->weights;
    const int32_t *constants = p->constants;
    for (int32_t g = 0; g < p->groups; g++) {
        s->x = x;
        s->y = y;
        const int done = pixels > 1 && gather_four(s);
        for (int32_t lane = 0; lane < pixels; lane++) {
            if (!done) {
                gather(s, lane, g * (p->in_c / p->groups));
            }
            next(s);
        }
        if (pixels > 1) {
            ednn_matrix_lanes(s->lanes, weights, constants, out, p->out_c, each, s->lanes + 2 * p->depth);
        } else {
            const int8_t *values = packed(s->lanes, p->depth / 4);
            ednn_matrix_row(values, weights, constants, out, each, p->depth);
        }
        out += each;
        weights += 2 * pairs * p->depth;
        constants += 7 * pairs;
    }
}

static APART void clamp(const ednn_conv_blocks_t *p, int8_t *x, int32_t count)
{
    const int32_t least = p->least, largest = p->largest;
    if (least > INT8_MIN || largest < INT8_MAX) {
        for (int32_t i = 0; i < count; i++) {
            x[i] = (int8_t)ednn_clamp(x[i], least, largest);
        }
    }
}

static APART void add(const ednn_conv_blocks_add_t *p, const int8_t *sums, const int8_t *other, int8_t *out, int32_t count)
{
    const int32_t a = p->quick.a, b = p->quick.b, offset = p->quick.offset, shift = p->quick.shift;
    if (a == 0) {
        for (int32_t i = 0; i < count; i++) {
            out[i] = (int8_t)ednn_add_one(&p->add, sums[i], other[i]);
        }
    } else {
        for (int32_t i = 0; i < count; i++) {
            out[i] = (int8_t)ednn_saturate8((sums[i] * a + other[i] * b + offset) >> shift);
        }
    }
}

/* `with` and `other`: NULL, or what is added. */
static void run(const ednn_conv_blocks_t *p, const ednn_conv_blocks_add_t *with, const int8_t *in, const int8_t *other,
                int8_t *out, void *scratch)
{
    state_t s = {.p = p, .in = in, .lanes = scratch, .run = p->kernel_w * (p->in_c / p->groups)};
    int32_t left = p->out_h * p->out_w;
    s.row = (int8_t *)(s.lanes + 2 * p->depth);
    s.rest = s.row + (s.run + 3) / 4 * 4;
    s.left = (p->kernel_h * (s.run % 4) + 3) / 4 * 4;
    int8_t *sums = s.rest + EDNN_LANES * s.left;
    while (left > 0) {
        const int32_t pixels = left >= EDNN_LANES ? EDNN_LANES : 1, count = pixels * p->out_c;
        int8_t *to = with == NULL ? out : sums;
        multiply(&s, pixels, to);
        clamp(p, to, count);
        if (with != NULL) {
            add(with, sums, other, out, count);
            other += count;
        }
        out += count;
        left -= pixels;
    }
}

void ednn_conv_blocks_s8(const ednn_conv_blocks_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    run(p, NULL, in, NULL, out, scratch);
}

void ednn_conv_blocks_add_s8(const ednn_conv_blocks_add_t *p, const int8_t *in, const int8_t *other, int8_t *out, void *scratch)
{
    run(&p->conv, p, in, other, out, scratch);
}
