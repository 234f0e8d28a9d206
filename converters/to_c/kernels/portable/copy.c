/* Boxes of runs of bytes. SPDX-License-Identifier: 0BSD */
#include "copy.h"

#include <string.h>

/* From the front: `out` may begin before `in`. */
static void move(uint8_t *out, const uint8_t *in, int32_t bytes)
{
    int32_t i = 0;
    for (; i + 4 <= bytes; i += 4) {
        uint32_t word;
        memcpy(&word, in + i, 4);
        memcpy(out + i, &word, 4);
    }
    for (; i < bytes; i++) {
        out[i] = in[i];
    }
}

static void copy_box(const int32_t *box, int32_t rank, const uint8_t *in, uint8_t *out)
{
    const int32_t bytes = box[4], *axes = box + 5;
    int32_t at[EDNN_COPY_RANK] = {0}, from = box[2], to = box[3], d;
    do {
        d = rank - 1;
        if (bytes == 1 && rank > 0) { /* the innermost axis at once */
            const int32_t *a = axes + 3 * d;
            for (int32_t i = 0; i < a[0]; i++) {
                out[to + i * a[2]] = in[from + i * a[1]];
            }
            d--;
        } else {
            move(out + to, in + from, bytes);
        }
        for (; d >= 0; d--) { /* to the next run */
            const int32_t *a = axes + 3 * d;
            from += a[1];
            to += a[2];
            if (++at[d] < a[0]) {
                break;
            }
            from -= a[0] * a[1];
            to -= a[0] * a[2];
            at[d] = 0;
        }
    } while (d >= 0);
}

static void fill(const ednn_copy_t *p, uint8_t *out)
{
    for (int32_t i = 0; i < p->filled; i++) {
        for (int32_t byte = 0; byte < p->width; byte++) { /* the lowest byte first */
            const int32_t shift = byte < 4 ? 8 * byte : 31;
            *out++ = (uint8_t)((uint32_t)(p->fill >> shift) & 0xFFu);
        }
    }
}

void ednn_copy(const ednn_copy_t *p, const void *const *in, void *const *out)
{
    const int32_t *box = p->boxes;
    fill(p, (uint8_t *)out[0]);
    for (int32_t i = 0; i < p->count; i++) {
        copy_box(box, p->rank, (const uint8_t *)in[box[0]], (uint8_t *)out[box[1]]);
        box += 5 + 3 * p->rank;
    }
}
