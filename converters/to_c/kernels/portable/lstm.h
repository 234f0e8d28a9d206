/* LSTM of int8 with a cell state of int16, over a sequence. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_LSTM_H
#define EDNN_LSTM_H

#include "edgedl_nn.h"

typedef struct {
    const int8_t *in_weights;  /* [4][cells][inputs]: input, forget, cell and output gate */
    const int8_t *out_weights; /* [4][cells][cells], of the state */
    const int32_t *in_bias;    /* [4][cells], zero points folded in */
    const int32_t *out_bias;   /* [4][cells] */
    const int32_t *rescaling;  /* [4][4]: multiplier and shift of the inputs, of the state */
    int32_t batch, steps, inputs, cells;
    int32_t in_batch, in_step;   /* values from one batch, and one step, to the next */
    int32_t out_batch, out_step;
    int32_t cell_bits; /* the scale of the cell state is 2^-cell_bits */
    int32_t clip;      /* of the cell state; 0: none */
    int32_t multiplier, shift, out_zero;
} ednn_lstm_t;

/* state: [batch][cells], cell: [batch][cells]; scratch: 4 * cells int16 */
void ednn_lstm_s8(const ednn_lstm_t *p, const int8_t *in, int8_t *state, int16_t *cell, int8_t *out, int16_t *scratch);

#endif
