/* Fully connected layer of int8 on Armv7E-M: four channels at a time. SPDX-License-Identifier: 0BSD */
#include "dense_blocks.h"

#include "matrix.h"

#include <string.h>

void ednn_dense_blocks_s8(const ednn_dense_blocks_t *p, const int8_t *in, int8_t *out, int8_t *scratch)
{
    const int32_t depth = p->depth;
    const int32_t padded = (depth + 3) & ~3;
    for (int32_t row = 0; row < p->rows; row++, in += depth, out += p->out) {
        const int8_t *x = in;
        if (padded != depth) {
            memcpy(scratch, in, (size_t)depth);
            x = scratch;
        }
        ednn_matrix_row(x, p->weights, p->constants, out, p->out, padded);
        if (p->least > INT8_MIN || p->largest < INT8_MAX) {
            for (int32_t o = 0; o < p->out; o++) {
                out[o] = (int8_t)ednn_clamp(out[o], p->least, p->largest);
            }
        }
    }
}
