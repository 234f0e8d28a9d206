/* Integers of another type or scale; floats at a model's border. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_REQUANTIZE_H
#define EDNN_REQUANTIZE_H

#include "edgedl_nn.h"

/* Kinds of numbers: their bytes; uint8 5, bool 6. */
typedef struct {
    int32_t count;
    int32_t in_kind, out_kind;
    int32_t zero, out_zero;
    int32_t multiplier, shift;
    int32_t least, largest;
} ednn_requantize_t;

typedef struct {
    int32_t count;
    int32_t in_kind, out_kind;
} ednn_cast_t;

typedef struct {
    int32_t count;
    int32_t head;     /* so many first values as TensorFlow Lite's vector code does them, the others as its plain code */
    int32_t kind;     /* of the integers */
    uint32_t scale;   /* the bits of a float32 */
    uint32_t inverse; /* of 1 / scale */
    uint32_t offset;  /* of -zero * scale */
    int32_t zero;
    int32_t least, largest;
} ednn_float_t;

void ednn_requantize(const ednn_requantize_t *p, const void *in, void *out);
void ednn_cast(const ednn_cast_t *p, const void *in, void *out);
void ednn_from_float(const ednn_float_t *p, const float *in, void *out);
void ednn_to_float(const ednn_float_t *p, const void *in, float *out);

#endif
