/* Images of another size. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_RESIZE_H
#define EDNN_RESIZE_H

#include "edgedl_nn.h"

typedef struct {
    const int16_t *rows;    /* [out_h]: the row of the input */
    const int16_t *columns; /* [out_w] */
    int32_t batch, in_h, in_w, out_h, out_w;
    int32_t bytes; /* of a pixel */
} ednn_nearest_t;

typedef struct {
    const int16_t *rows;    /* [out_h][3]: upper row, lower row, weight of the lower in 1/1024 */
    const int16_t *columns; /* [out_w][3] */
    int32_t batch, in_h, in_w, out_h, out_w, channels;
} ednn_bilinear_t;

void ednn_resize_nearest(const ednn_nearest_t *p, const void *in, void *out);
void ednn_resize_bilinear_s8(const ednn_bilinear_t *p, const int8_t *in, int8_t *out);
void ednn_resize_bilinear_s16(const ednn_bilinear_t *p, const int16_t *in, int16_t *out);

#endif
