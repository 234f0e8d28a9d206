/* Four channels of depthwise sums at a time on Armv7E-M, and the walk over a layer's pixels. SPDX-License-Identifier: 0BSD

   The including file defines EDNN_SPREAD as 0 (a tap is four int8, one for each channel) or 1 (one int8 for all four). */
#ifndef EDNN_DEPTHWISE_SUMS_H
#define EDNN_DEPTHWISE_SUMS_H

#include "depthwise_words.h"

/* A run of pixels whose windows have the same shape: the channels from `out` to `end` with the words at `words` and on; then,
   until `last`, `pixel` bytes further those of the next pixel, whose window begins `advance` bytes behind the last tap's. */
typedef struct {
    int8_t *out;
    const int8_t *end, *last;
    int32_t advance, pixel;
} ednn_run_t;

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)

#if defined(__clang__)
#define EDNN_NAKED __attribute__((naked, noinline, unused))
#else /* what the assembly does to registers is not seen by gcc, which must not reckon with it either */
#define EDNN_NAKED __attribute__((naked, noinline, noipa, unused))
#endif

/* r0 words, r1 from, r2 out; r4..r7 the sums of the channels a..d; r8..r11 for the moment. */
#if EDNN_SPREAD
#define EDNN_LOAD "ldrsb "
#define EDNN_MULTIPLY                                                                                                         \
    "ldrd r10, r11, [r0], #8\n\t"                                                                                             \
    "smlabb r4, r8, r10, r4\n\tsmlabt r6, r8, r10, r6\n\tsmlabb r5, r8, r11, r5\n\tsmlabt r7, r8, r11, r7\n\t"
#define EDNN_NEXT ""
#else
#define EDNN_LOAD "ldr "
#define EDNN_MULTIPLY                                                                                                         \
    "ldrd r10, r11, [r0], #8\n\tsxtb16 r9, r8\n\tsxtb16 r8, r8, ror #8\n\t"                                                   \
    "smlabb r4, r9, r10, r4\n\tsmlatt r6, r9, r10, r6\n\tsmlabb r5, r8, r11, r5\n\tsmlatt r7, r8, r11, r7\n\t"
#define EDNN_NEXT "adds r1, r1, #4\n\t"
#endif
#define EDNN_ROW                                                                                                              \
    EDNN_LOAD "r8, [r1]\n\t" EDNN_MULTIPLY                                                                                    \
    EDNN_LOAD "r8, [r1, r3]\n\t" EDNN_MULTIPLY                                                                                \
    EDNN_LOAD "r8, [r1, r3, lsl #1]\n\t" EDNN_MULTIPLY
#define EDNN_TAP "ldr r8, [lr], #4\n\t" EDNN_LOAD "r8, [r1, r8]\n\t" EDNN_MULTIPLY
#define EDNN_RESULT(sum)                                                                                                      \
    "ldm r0!, {r8, r9, r10}\n\tsmmlar " sum ", " sum ", r8, r9\n\tasr " sum ", " sum ", r10\n\tssat " sum ", #8, " sum "\n\t"
#define EDNN_RESULTS                                                                                                          \
    EDNN_RESULT("r4") EDNN_RESULT("r5") EDNN_RESULT("r6") EDNN_RESULT("r7")                                                   \
    "bfi r4, r5, #8, #8\n\tbfi r4, r6, #16, #8\n\tbfi r4, r7, #24, #8\n\tstr r4, [r2], #4\n\t"

#define EDNN_PARAMETER __attribute__((unused))
#define EDNN_BEGIN "push {r3-r11, lr}\n\tldr r2, [r3]\n\t" /* [sp]: the run; [sp, #40] and on: the other parameters */
#define EDNN_NEXT_PIXEL /* all channels are done: r8 the run */                                                               \
    "ldrd r10, r11, [r8, #8]\n\tcmp r2, r10\n\tldr r9, [r8, #16]\n\tldr r0, [sp, #44]\n\tadd r1, r1, r11\n\t"

/* Windows of 3 x 3, the first at `from`: `step` bytes from tap to tap, `down` from row to row. */
EDNN_NAKED static void ednn_nine_taps(const int32_t *words EDNN_PARAMETER, const int8_t *from EDNN_PARAMETER,
                                      int32_t step EDNN_PARAMETER, const ednn_run_t *run EDNN_PARAMETER,
                                      int32_t down EDNN_PARAMETER, const int32_t *again EDNN_PARAMETER)
{
    __asm__ volatile("mov r12, r2\n\t" EDNN_BEGIN
                     "ldr lr, [r3, #4]\n\tmov r3, r12\n\tldr r12, [sp, #40]\n"
                     "1:\tldm r0!, {r4-r7}\n\t"
                     EDNN_ROW "add r1, r1, r12\n\t"
                     EDNN_ROW "add r1, r1, r12\n\t"
                     EDNN_ROW "sub r1, r1, r12, lsl #1\n\t" EDNN_NEXT
                     EDNN_RESULTS
                     "cmp r2, lr\n\tbne 1b\n\t"
                     "ldr r8, [sp]\n\t" EDNN_NEXT_PIXEL "add lr, lr, r9\n\tbne 1b\n\t"
                     "pop {r3-r11, pc}");
}

/* Taps at `from` plus the offsets from `taps` to `stop`. */
EDNN_NAKED static void ednn_any_taps(const int32_t *words EDNN_PARAMETER, const int8_t *from EDNN_PARAMETER,
                                     const int32_t *taps EDNN_PARAMETER, ednn_run_t *run EDNN_PARAMETER,
                                     const int32_t *stop EDNN_PARAMETER, const int32_t *again EDNN_PARAMETER)
{
    __asm__ volatile("mov r12, r2\n\t" EDNN_BEGIN
                     "mov r3, r12\n\tldr r12, [sp, #40]\n"
                     "1:\tldm r0!, {r4-r7}\n\t"
                     "mov lr, r3\n\t"
                     "sub r8, r12, r3\n\tlsls r8, r8, #29\n\tbpl 2f\n\t" /* an odd number of taps: one by itself */
                     EDNN_TAP
                     "2:\tcmp lr, r12\n\tbeq 4f\n"
                     "3:\t" EDNN_TAP EDNN_TAP "cmp lr, r12\n\tbne 3b\n"
                     "4:\t" EDNN_NEXT EDNN_RESULTS
                     "ldr r8, [sp]\n\tldr r9, [r8, #4]\n\tcmp r2, r9\n\tbne 1b\n\t"
                     EDNN_NEXT_PIXEL "add r9, r9, r2\n\tstr r9, [r8, #4]\n\tbne 1b\n\t"
                     "pop {r3-r11, pc}");
}

#else /* the same in C */

static inline int32_t ednn_half(int32_t word, int top)
{
    const uint32_t bits = ((uint32_t)word >> (top ? 16 : 0)) & 0xFFFFu;
    return (int32_t)bits - (bits >= 0x8000u ? 0x10000 : 0);
}

static inline void ednn_any_taps(const int32_t *words, const int8_t *from, const int32_t *taps, ednn_run_t *run,
                                 const int32_t *stop, const int32_t *again)
{
    int8_t *out = run->out;
    while (out != run->last) {
        uint32_t sums[4] = {(uint32_t)words[0], (uint32_t)words[1], (uint32_t)words[2], (uint32_t)words[3]};
        words += 4;
        for (const int32_t *tap = taps; tap != stop; tap++, words += 2) {
            for (int32_t i = 0; i < 4; i++) {
                sums[i] += (uint32_t)(from[*tap + (EDNN_SPREAD ? 0 : i)] * ednn_half(words[i % 2], i > 1));
            }
        }
        for (int32_t i = 0; i < 4; i++, words += 3) {
            const int64_t product = (int64_t)(int32_t)sums[i] * words[0];
            const int32_t scaled = (int32_t)((product + ((int64_t)1 << 31)) >> 32) + words[1];
            *out++ = (int8_t)ednn_clamp(scaled >> words[2], INT8_MIN, INT8_MAX);
        }
        from += EDNN_SPREAD ? 0 : 4;
        if (out == run->end) {
            words = again;
            from += run->advance;
            run->end += run->pixel;
        }
    }
}

static inline void ednn_nine_taps(const int32_t *words, const int8_t *from, int32_t step, ednn_run_t *run, int32_t down,
                                  const int32_t *again)
{
    int32_t taps[9];
    for (int32_t i = 0; i < 9; i++) {
        taps[i] = i / 3 * down + i % 3 * step;
    }
    ednn_any_taps(words, from, taps, run, taps + 9, again);
}

#endif

/* Where each tap of a window lies from its origin; if some lie outside the input: from `in`, these at `zeros`. */
static void ednn_find_taps(const ednn_depthwise_words_t *p, int32_t top, int32_t left, int inner, int32_t zeros, int32_t *taps)
{
    for (int32_t i = 0; i < p->kernel_h; i++) {
        const int32_t row = inner ? i * p->dilation_h : top + i * p->dilation_h;
        for (int32_t j = 0; j < p->kernel_w; j++) {
            const int32_t column = inner ? j * p->dilation_w : left + j * p->dilation_w;
            const int inside = inner || (row >= 0 && row < p->in_h && column >= 0 && column < p->in_w);
            *taps++ = inside ? (row * p->in_w + column) * p->in_c : zeros;
        }
    }
}

/* `pixels` in a row with the same window; `taps`: NULL for 3 x 3 within the input. */
static inline void ednn_pixels(const ednn_depthwise_words_t *p, const int8_t *from, int8_t *out, const int32_t *taps,
                               int32_t pixels)
{
    const int32_t count = p->kernel_h * p->kernel_w;
    const int32_t *words = p->words;
    const int32_t each = EDNN_SPREAD ? p->each : p->out_c;
    for (int8_t *end = out + p->out_c; out != end; out += each) {
        const int8_t *last = out + (pixels - 1) * p->out_c + each;
        const int32_t advance = p->stride_w * p->in_c - (EDNN_SPREAD ? 0 : p->in_c);
        ednn_run_t run = {out, out + each, last, advance, p->out_c};
        if (taps == NULL) {
            ednn_nine_taps(words, from, p->in_c, &run, p->in_w * p->in_c * p->dilation_h, words);
        } else {
            ednn_any_taps(words, from, taps, &run, taps + count, words);
        }
        words += each / 4 * (16 + 2 * count);
        from++; /* to the next channel of the input, if there is one */
    }
}

static inline void ednn_clamp_all(const ednn_depthwise_words_t *p, int8_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = (int8_t)ednn_clamp(out[i], p->least, p->largest);
    }
}

/* The first pixel of a row whose window ends right of the input (or below it, of a column). */
static inline int32_t ednn_last_inner(int32_t size, int32_t reach, int32_t pad, int32_t stride, int32_t out)
{
    const int32_t room = size - reach + pad;
    const int32_t found = room < 0 ? 0 : room / stride + 1;
    return found < out ? found : out;
}

/* What all rows of a layer share. */
typedef struct {
    int32_t *taps;
    int8_t *zeros;
    int nine;     /* whether windows are of 3 x 3 columns and rows side by side */
    int together; /* whether a run of pixels can be computed at once */
    int known;    /* whether `taps` are those of a window within the input */
    int32_t end;  /* the first column whose window ends right of the input */
} ednn_layer_t;

static inline void ednn_depthwise_row(const ednn_depthwise_words_t *p, ednn_layer_t *v, const int8_t *in, int32_t y, int8_t *out)
{
    const int32_t top = y * p->stride_h - p->pad_top;
    const int inside = top >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h;
    for (int32_t x = 0; x < p->out_w;) {
        const int32_t left = x * p->stride_w - p->pad_left;
        const int inner = inside && left >= 0 && x < v->end;
        const int32_t pixels = inner && v->together ? v->end - x : 1;
        if (!(inner && (v->nine || v->known))) {
            ednn_find_taps(p, top, left, inner, (int32_t)(v->zeros - in), v->taps);
            v->known = inner;
        }
        ednn_pixels(p, inner ? in + (top * p->in_w + left) * p->in_c : in, out, v->nine && inner ? NULL : v->taps, pixels);
        if (p->clamped) {
            ednn_clamp_all(p, out, pixels * p->out_c);
        }
        out += pixels * p->out_c;
        x += pixels;
    }
}

static void ednn_copy_words(int8_t *to, const int8_t *from, int32_t count)
{
    int32_t *words = (int32_t *)(void *)to;
    const int32_t *given = (const int32_t *)(const void *)from;
    for (int32_t i = 0; i < count / 4; i++) {
        words[i] = given[i];
    }
}

/* The whole layer. */
static inline void ednn_depthwise_pixels(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    int32_t *taps = (int32_t *)scratch;
    int8_t *zeros = (int8_t *)(taps + p->kernel_h * p->kernel_w);
    int8_t *waiting = zeros + (p->in_c + 3) / 4 * 4;
    const int32_t bytes = p->out_w * p->out_c;
    ednn_layer_t v = {
        taps,
        zeros,
        p->kernel_w == 3 && p->kernel_h == 3 && p->dilation_w == 1,
        p->each == p->out_c || p->each == 1,
        0,
        ednn_last_inner(p->in_w, (p->kernel_w - 1) * p->dilation_w + 1, p->pad_left, p->stride_w, p->out_w),
    };
    for (int32_t c = 0; c < p->in_c; c++) {
        zeros[c] = (int8_t)p->zero;
    }
    for (int32_t y = 0; y < p->out_h + p->late; y++) {
        if (y < p->out_h) {
            ednn_depthwise_row(p, &v, in, y, p->late == 0 ? out + y * bytes : waiting + y % (p->late + 1) * bytes);
        }
        if (p->late != 0 && y >= p->late) {
            ednn_copy_words(out + (y - p->late) * bytes, waiting + (y - p->late) % (p->late + 1) * bytes, bytes);
        }
    }
}

#endif
