/* Four channels of depthwise sums at a time on Armv7E-M, and the walk over a layer's pixels. SPDX-License-Identifier: 0BSD

   The including file defines EDNN_SPREAD as 0 (a tap is four int8, one for each channel) or 1 (one int8 for all four). */
#ifndef EDNN_DEPTHWISE_SUMS_H
#define EDNN_DEPTHWISE_SUMS_H

#include "depthwise_words.h"

/* Both functions compute the channels of one pixel, from `out` to `end`, with the words at `words` and on. */

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__)

#define EDNN_NAKED __attribute__((naked, noinline, unused))
#define EDNN_UNUSED __attribute__((unused))

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

/* A window of 3 x 3 that begins at `from`: `step` bytes from tap to tap, `down` from row to row. */
EDNN_NAKED static void ednn_nine_taps(const int32_t *words EDNN_UNUSED, const int8_t *from EDNN_UNUSED, int8_t *out EDNN_UNUSED,
                                      int32_t step EDNN_UNUSED, int32_t down EDNN_UNUSED, const int8_t *end EDNN_UNUSED)
{
    __asm__ volatile("push {r4-r11, lr}\n\t"
                     "ldrd r12, lr, [sp, #36]\n"
                     "1:\tldm r0!, {r4-r7}\n\t"
                     EDNN_ROW "add r1, r1, r12\n\t"
                     EDNN_ROW "add r1, r1, r12\n\t"
                     EDNN_ROW "sub r1, r1, r12, lsl #1\n\t" EDNN_NEXT
                     EDNN_RESULTS
                     "cmp r2, lr\n\tbne 1b\n\t"
                     "pop {r4-r11, pc}");
}

/* Taps at `from` plus the offsets from `taps` to `last`. */
EDNN_NAKED static void ednn_any_taps(const int32_t *words EDNN_UNUSED, const int8_t *from EDNN_UNUSED, int8_t *out EDNN_UNUSED,
                                     const int32_t *taps EDNN_UNUSED, const int32_t *last EDNN_UNUSED,
                                     const int8_t *end EDNN_UNUSED)
{
    __asm__ volatile("push {r4-r11, lr}\n\t"
                     "ldr r12, [sp, #36]\n"
                     "1:\tldm r0!, {r4-r7}\n\t"
                     "mov lr, r3\n\t"
                     "sub r8, r12, r3\n\tlsls r8, r8, #29\n\tbpl 2f\n\t" /* an odd number of taps: one by itself */
                     EDNN_TAP
                     "2:\tcmp lr, r12\n\tbeq 4f\n"
                     "3:\t" EDNN_TAP EDNN_TAP "cmp lr, r12\n\tbne 3b\n"
                     "4:\t" EDNN_NEXT EDNN_RESULTS
                     "ldr r8, [sp, #40]\n\tcmp r2, r8\n\tbne 1b\n\t"
                     "pop {r4-r11, pc}");
}

#else /* the same in C */

static inline int32_t ednn_half(int32_t word, int top)
{
    const uint32_t bits = ((uint32_t)word >> (top ? 16 : 0)) & 0xFFFFu;
    return (int32_t)bits - (bits >= 0x8000u ? 0x10000 : 0);
}

static inline void ednn_any_taps(const int32_t *words, const int8_t *from, int8_t *out, const int32_t *taps,
                                 const int32_t *last, const int8_t *end)
{
    for (; out != end; out += 4, from += EDNN_SPREAD ? 0 : 4) {
        uint32_t sums[4] = {(uint32_t)words[0], (uint32_t)words[1], (uint32_t)words[2], (uint32_t)words[3]};
        words += 4;
        for (const int32_t *tap = taps; tap != last; tap++, words += 2) {
            for (int32_t i = 0; i < 4; i++) {
                sums[i] += (uint32_t)(from[*tap + (EDNN_SPREAD ? 0 : i)] * ednn_half(words[i % 2], i > 1));
            }
        }
        for (int32_t i = 0; i < 4; i++, words += 3) {
            const int64_t product = (int64_t)(int32_t)sums[i] * words[0];
            const int32_t scaled = (int32_t)((product + ((int64_t)1 << 31)) >> 32) + words[1];
            out[i] = (int8_t)ednn_clamp(scaled >> words[2], INT8_MIN, INT8_MAX);
        }
    }
}

static inline void ednn_nine_taps(const int32_t *words, const int8_t *from, int8_t *out, int32_t step, int32_t down,
                                  const int8_t *end)
{
    int32_t taps[9];
    for (int32_t i = 0; i < 9; i++) {
        taps[i] = i / 3 * down + i % 3 * step;
    }
    ednn_any_taps(words, from, out, taps, taps + 9, end);
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

/* All channels of a pixel; `taps`: NULL for a window of 3 x 3 within the input. */
static inline void ednn_pixel(const ednn_depthwise_words_t *p, const int8_t *from, int8_t *out, const int32_t *taps)
{
    const int32_t count = p->kernel_h * p->kernel_w;
    const int32_t *words = p->words;
    const int32_t each = EDNN_SPREAD ? p->each : p->out_c;
    for (const int8_t *end = out + p->out_c; out != end; out += each) {
        if (taps == NULL) {
            ednn_nine_taps(words, from, out, p->in_c, p->in_w * p->in_c * p->dilation_h, out + each);
        } else {
            ednn_any_taps(words, from, out, taps, taps + count, out + each);
        }
        words += each / 4 * (16 + 2 * count);
        from++; /* to the next channel of the input, if there is one */
    }
}

static inline void ednn_clamp_pixel(const ednn_depthwise_words_t *p, int8_t *out)
{
    for (int32_t o = 0; o < p->out_c; o++) {
        out[o] = (int8_t)ednn_clamp(out[o], p->least, p->largest);
    }
}

/* The whole layer. */
static inline void ednn_depthwise_pixels(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    int32_t *taps = (int32_t *)scratch;
    int8_t *zeros = (int8_t *)(taps + p->kernel_h * p->kernel_w);
    const int nine = p->kernel_w == 3 && p->kernel_h == 3 && p->dilation_w == 1;
    int known = 0; /* whether `taps` are those of a window within the input */
    for (int32_t c = 0; c < p->in_c; c++) {
        zeros[c] = (int8_t)p->zero;
    }
    for (int32_t y = 0; y < p->out_h; y++) {
        const int32_t top = y * p->stride_h - p->pad_top;
        const int inside = top >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h;
        for (int32_t x = 0; x < p->out_w; x++) {
            const int32_t left = x * p->stride_w - p->pad_left;
            const int inner = inside && left >= 0 && left + (p->kernel_w - 1) * p->dilation_w < p->in_w;
            if (!(inner && (nine || known))) {
                ednn_find_taps(p, top, left, inner, (int32_t)(zeros - in), taps);
                known = inner;
            }
            ednn_pixel(p, inner ? in + (top * p->in_w + left) * p->in_c : in, out, nine && inner ? NULL : taps);
            if (p->clamped) {
                ednn_clamp_pixel(p, out);
            }
            out += p->out_c;
        }
    }
}

#endif
