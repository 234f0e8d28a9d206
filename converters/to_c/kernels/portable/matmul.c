/* One result after another, in plain C. SPDX-License-Identifier: 0BSD */
#include "matmul.h"

static int32_t product(const ednn_matmul_t *p, const int8_t *a, const int8_t *b)
{
    int32_t sum = 0;
    for (int32_t k = 0; k < p->depth; k++) {
        sum += (a[k * p->a_step] - p->a_zero) * (b[k * p->b_step] - p->b_zero);
    }
    return ednn_clamp(ednn_rescale(sum, p->multiplier, p->shift) + p->out_zero, p->least, p->largest);
}

void ednn_matmul_s8(const ednn_matmul_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    for (int32_t n = 0; n < p->batches; n++) {
        for (int32_t i = 0; i < p->rows; i++) {
            for (int32_t j = 0; j < p->columns; j++) {
                *out++ = (int8_t)product(p, a + p->a_at[n] + i * p->a_row, b + p->b_at[n] + j * p->b_column);
            }
        }
    }
}

static int32_t product_wide(const ednn_matmul_t *p, const int16_t *a, const int16_t *b)
{
    int64_t sum = 0;
    for (int32_t k = 0; k < p->depth; k++) {
        sum += (int32_t)a[k * p->a_step] * b[k * p->b_step];
    }
    return ednn_clamp(ednn_rescale_wide(sum, p->multiplier, p->shift), p->least, p->largest);
}

void ednn_matmul_s16(const ednn_matmul_t *p, const int16_t *a, const int16_t *b, int16_t *out)
{
    for (int32_t n = 0; n < p->batches; n++) {
        for (int32_t i = 0; i < p->rows; i++) {
            for (int32_t j = 0; j < p->columns; j++) {
                *out++ = (int16_t)product_wide(p, a + p->a_at[n] + i * p->a_row, b + p->b_at[n] + j * p->b_column);
            }
        }
    }
}
