/* Sum of two int8 tensors of one shape on Armv7E-M. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_WORDS_H
#define EDNN_ADD_WORDS_H

#include "edgedl_nn.h"

/* x + y is saturate((x * a + y * b + offset) >> shift) to int8, which has been tried on all pairs. */
typedef struct {
    int32_t a, b, offset, shift;
} ednn_add_factors_t;

typedef struct {
    ednn_add_factors_t blocks; /* of whole blocks of 16 elements, which LiteRT rounds otherwise than what is left */
    ednn_add_factors_t rest;
    int32_t count;
} ednn_add_words_t;

/* `out` may be `a` or `b`, or begin before them. */
void ednn_add_words_s8(const ednn_add_words_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
