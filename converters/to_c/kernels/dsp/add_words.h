/* Sum of two int8 tensors of one shape on Armv7E-M. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_WORDS_H
#define EDNN_ADD_WORDS_H

#include "edgedl_nn.h"

/* A sum is saturate((a * factor a + b * factor b + offset) >> shift), which has been tried on all pairs of int8. */
typedef struct {
    int32_t a, b, offset, shift;
    int32_t count;
} ednn_add_words_t;

/* `out` may be `a` or `b`, or begin before them. */
void ednn_add_words_s8(const ednn_add_words_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
