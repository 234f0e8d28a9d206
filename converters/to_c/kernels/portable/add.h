/* Sum (or difference) of two int8 tensors of any scales. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_ADD_H
#define EDNN_ADD_H

#include "elementwise.h"
#include "add_one.h"

typedef struct {
    ednn_pairs_t pairs;
    ednn_add_one_t one;
    int32_t sign;     /* of b: 1, or -1 for a difference */
    int32_t whole;    /* elements at the beginning of each row that are added as LiteRT's vector code does; 0 for a difference */
    int32_t repeated; /* whether one operand is the same along a row, for which LiteRT has other vector code */
} ednn_add_s8_t;

void ednn_add_s8(const ednn_add_s8_t *p, const int8_t *a, const int8_t *b, int8_t *out);

#endif
