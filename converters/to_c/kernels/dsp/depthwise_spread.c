/* Depthwise convolution of int8 on Armv7E-M with a multiple of four channels out for each channel in.
   SPDX-License-Identifier: 0BSD */
#define EDNN_SPREAD 1
#include "depthwise_sums.h"

void ednn_depthwise_spread_s8(const ednn_depthwise_words_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    ednn_depthwise_pixels(p, in, out, scratch);
}
