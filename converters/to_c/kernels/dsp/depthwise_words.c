/* Depthwise convolution of int8 on Armv7E-M with as many channels out as in: each tap is a word of four channels.
   SPDX-License-Identifier: 0BSD */
#define EDNN_SPREAD 0
#include "depthwise_sums.h"

void ednn_depthwise_words_s8(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    ednn_depthwise_pixels(p, in, out, scratch);
}
