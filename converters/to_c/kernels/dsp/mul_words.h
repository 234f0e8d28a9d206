/* Product of two int8 tensors of one shape on Armv7E-M. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_MUL_WORDS_H
#define EDNN_MUL_WORDS_H

#include "edgedl_nn.h"

/* A product is (a - zero) * (b - zero) doubled, times the multiplier, its upper word rounded, and shifted right with halves away
   from zero; `addend` holds the half and the zero point of the result. */
typedef struct {
    int32_t a_zero, b_zero;
    int32_t multiplier, addend, shift; /* shift: 1..22 */
    int32_t count;
} ednn_mul_words_t;

/* `out` may be `a` or `b`, or begin before them. */
void ednn_mul_words_s8(const ednn_mul_words_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
