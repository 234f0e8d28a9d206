/* Depthwise convolution of int8 on Armv7E-M, four channels at a time. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DEPTHWISE_WORDS_H
#define EDNN_DEPTHWISE_WORDS_H

#include "edgedl_nn.h"

/* Of each four channels a..d there are 16 + 2 * taps words: four sums to begin with; of each tap the weights (a, c), (b, d) as
   halves of two words; multiplier, addend and shift of a, b, c, d. A result is the sum times the multiplier, its upper word
   rounded, plus the addend, shifted right, saturated to int8. Weights and sums are doubled for that (ops/depthwise.py). */
typedef struct {
    const int32_t *words; /* [out_c / 4][16 + 2 * taps] */
    int32_t zero;         /* of the input: what padding is filled with */
    int32_t least, largest;
    int32_t clamped; /* whether these are other than the limits of int8 */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c; /* out_c: a multiple of 4 */
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t each; /* out_c / in_c: 1, or a multiple of 4 */
    int32_t late; /* rows that results wait for, so that they can take the input's place; 0: none wait */
} ednn_depthwise_words_t;

/* scratch: 4 bytes for each tap, in_c bytes up to a multiple of 4, and late + 1 rows of the output if any; in the same array
   as `in`. `in` and `out` are aligned to 4 if `each` is 1. */
void ednn_depthwise_words_s8(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch);
void ednn_depthwise_spread_s8(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch);

#endif
