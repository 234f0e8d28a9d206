/* Matrix kernels of Armv7E-M: 13 instructions for 16 multiply-accumulates of four pixels, 21 for 16 of one row. SPDX-License-Identifier: 0BSD */
#include "matrix.h"

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__thumb2__) && defined(__GNUC__)

/* Two values of k of two channels and four pixels: r0..r7 += ..., r12: weights, lr: lanes. */
#define HALF                                                                                                          \
    "ldr    r10, [r12], #4\n"                                                                                         \
    "ldrd   r8, r9, [lr], #8\n"                                                                                       \
    "sxtb16 r11, r10\n"                                                                                               \
    "sxtb16 r10, r10, ror #8\n"                                                                                       \
    "smlad  r0, r8, r11, r0\n"                                                                                        \
    "smlad  r1, r8, r10, r1\n"                                                                                        \
    "smlad  r2, r9, r11, r2\n"                                                                                        \
    "smlad  r3, r9, r10, r3\n"                                                                                        \
    "ldrd   r8, r9, [lr], #8\n"                                                                                       \
    "smlad  r4, r8, r11, r4\n"                                                                                        \
    "smlad  r5, r8, r10, r5\n"                                                                                        \
    "smlad  r6, r9, r11, r6\n"                                                                                        \
    "smlad  r7, r9, r10, r7\n"
#define QUAD HALF HALF /* 104 bytes of code */

#define SCALE(sum, shift, multiplier, offset)                                                                         \
    "lsl    " sum ", " sum ", " shift "\n"                                                                            \
    "smmla  " sum ", " sum ", " multiplier ", " offset "\n"                                                           \
    "ssat   " sum ", #8, " sum ", asr #12\n"

/* On the stack: 0 lanes, 4 where the loop is entered, 8 constants, 12 out, 52 stride, 56 channels, 60 end. The loop does 16
   values of k; it is entered in the middle when their number is no multiple of 16. */
__attribute__((naked, noinline)) void ednn_matrix_lanes(
    __attribute__((unused)) const uint32_t *lanes, __attribute__((unused)) const int8_t *weights,
    __attribute__((unused)) const int32_t *constants, __attribute__((unused)) int8_t *out,
    __attribute__((unused)) int32_t stride, __attribute__((unused)) int32_t channels,
    __attribute__((unused)) const uint32_t *end)
{
    __asm__(
        ".syntax unified\n"
        "push   {r0-r11, lr}\n"
        "mov    r12, r1\n"
        "ldr    r4, [sp, #60]\n"
        "subs   r4, r4, r0\n"
        "rsb    r4, r4, #0\n" /* -32 * quads */
        "and    r4, r4, #96\n" /* 32 * the quads to skip */
        "movs   r6, #104\n"
        "lsrs   r4, r4, #5\n"
        "adr    r5, 1f\n"
        "mla    r4, r4, r6, r5\n"
        "orr    r4, r4, #1\n"
        "str    r4, [sp, #4]\n"
        "0:\n"
        "ldr    lr, [sp, #8]\n"
        "ldr    r11, [sp, #4]\n"
        "ldm    lr!, {r0, r1}\n"
        "str    lr, [sp, #8]\n"
        "ldr    lr, [sp]\n"
        "mov    r2, r0\n"
        "mov    r3, r1\n"
        "mov    r4, r0\n"
        "mov    r5, r1\n"
        "mov    r6, r0\n"
        "mov    r7, r1\n"
        "bx     r11\n"
        ".p2align 2\n"
        "1:\n" QUAD QUAD QUAD QUAD
        "ldr    r8, [sp, #60]\n"
        "cmp    lr, r8\n"
        "bne    1b\n"
        "ldr    lr, [sp, #8]\n"
        "ldm    lr!, {r8, r9, r10}\n"
        SCALE("r0", "r8", "r9", "r10") SCALE("r2", "r8", "r9", "r10")
        SCALE("r4", "r8", "r9", "r10") SCALE("r6", "r8", "r9", "r10")
        "lsr    r8, r8, #8\n"
        "ldm    lr!, {r9, r10}\n"
        "str    lr, [sp, #8]\n"
        SCALE("r1", "r8", "r9", "r10") SCALE("r3", "r8", "r9", "r10")
        SCALE("r5", "r8", "r9", "r10") SCALE("r7", "r8", "r9", "r10")
        "ldrd   r10, r11, [sp, #52]\n" /* stride, channels */
        "ldr    r8, [sp, #12]\n"
        "subs   r11, r11, #2\n"
        "add    r9, r8, r10\n"
        "strb   r0, [r8]\n"
        "strb   r4, [r8, r10, lsl #1]\n"
        "strb   r2, [r9]\n"
        "strb   r6, [r9, r10, lsl #1]\n"
        "bmi    2f\n" /* an odd number of channels: this was the last */
        "add    r8, r8, #1\n"
        "add    r9, r9, #1\n"
        "strb   r1, [r8], #1\n"
        "str    r8, [sp, #12]\n"
        "sub    r8, r8, #1\n"
        "strb   r5, [r8, r10, lsl #1]\n"
        "strb   r3, [r9]\n"
        "strb   r7, [r9, r10, lsl #1]\n"
        "str    r11, [sp, #56]\n"
        "bne    0b\n"
        "2:\n"
        "add    sp, sp, #16\n"
        "pop    {r4-r11, pc}\n");
}

/* Two values of two channels each from the words r9, r10: sums `a` and `b`; r7, r8: activations. */
#define FOUR(a, b)                                                                                                    \
    "sxtb16 r11, r9\n"                                                                                                \
    "sxtb16 r9, r9, ror #8\n"                                                                                         \
    "smlad  " a ", r7, r11, " a "\n"                                                                                  \
    "smlad  " b ", r7, r9, " b "\n"                                                                                   \
    "sxtb16 r11, r10\n"                                                                                               \
    "sxtb16 r10, r10, ror #8\n"                                                                                       \
    "smlad  " a ", r8, r11, " a "\n"                                                                                  \
    "smlad  " b ", r8, r10, " b "\n"
#define ROW /* 84 bytes of code: 4 values of k of four channels */                                                    \
    "ldr    r8, [r4], #4\n"                                                                                           \
    "ldrd   r9, r10, [r5], #8\n"                                                                                      \
    "sxtb16 r7, r8\n"                                                                                                 \
    "sxtb16 r8, r8, ror #8\n"                                                                                         \
    FOUR("r0", "r1")                                                                                                  \
    "ldrd   r9, r10, [r6], #8\n"                                                                                      \
    FOUR("r2", "r3")

/* On the stack: 0 x, 8 constants, 12 out, 52 channels, 56 depth. r5, r6: weights of two pairs of channels. */
__attribute__((naked, noinline)) void ednn_matrix_row(
    __attribute__((unused)) const int8_t *x, __attribute__((unused)) const int8_t *weights,
    __attribute__((unused)) const int32_t *constants, __attribute__((unused)) int8_t *out,
    __attribute__((unused)) int32_t channels, __attribute__((unused)) int32_t depth)
{
    __asm__(
        ".syntax unified\n"
        "push   {r0-r11, lr}\n"
        "mov    r6, r1\n"
        "0:\n"
        "ldrd   r12, r8, [sp, #52]\n" /* channels, depth */
        "ldr    r4, [sp]\n"
        "ldr    r7, [sp, #8]\n"
        "mov    r5, r6\n"
        "add    lr, r4, r8\n"
        "add    r6, r6, r8, lsl #1\n"
        "ldrd   r0, r1, [r7]\n"
        "ldrd   r2, r3, [r7, #28]\n"
        "tst    r8, #4\n"
        "bne    3f\n"
        "1:\n" ROW
        "3:\n" ROW
        "cmp    r4, lr\n"
        "bne    1b\n"
        "ldrd   lr, r11, [sp, #8]\n"
        "add    lr, lr, #8\n"
        "ldm    lr!, {r8, r9, r10}\n"
        SCALE("r0", "r8", "r9", "r10")
        "lsrs   r8, r8, #8\n"
        "ldm    lr!, {r9, r10}\n"
        SCALE("r1", "r8", "r9", "r10")
        "add    lr, lr, #8\n"
        "ldm    lr!, {r8, r9, r10}\n"
        SCALE("r2", "r8", "r9", "r10")
        "lsrs   r8, r8, #8\n"
        "ldm    lr!, {r9, r10}\n"
        SCALE("r3", "r8", "r9", "r10")
        "strb   r0, [r11], #1\n"
        "subs   r12, r12, #4\n"
        "bmi    2f\n"
        "strb   r1, [r11], #1\n"
        "strb   r2, [r11], #1\n"
        "strb   r3, [r11], #1\n"
        "strd   lr, r11, [sp, #8]\n"
        "str    r12, [sp, #52]\n"
        "bne    0b\n"
        "b      4f\n"
        "2:\n" /* the last 1..3 channels */
        "adds   r12, r12, #2\n"
        "it     pl\n"
        "strbpl r1, [r11]\n"
        "it     gt\n"
        "strbgt r2, [r11, #1]\n"
        "4:\n"
        "add    sp, sp, #16\n"
        "pop    {r4-r11, pc}\n");
}

#else /* the same in C, for tests on other machines */

static int32_t low(uint32_t pair) { return (int32_t)((pair & 0xFFFFu) ^ 0x8000u) - 0x8000; }

static uint32_t dual(uint32_t a, uint32_t b, uint32_t sum)
{
    return sum + (uint32_t)(low(a) * low(b)) + (uint32_t)(low(a >> 16) * low(b >> 16));
}

static int8_t scaled(uint32_t sum, const int32_t *constants, int32_t second)
{
    const uint32_t shift = ((uint32_t)constants[2] >> (8 * second)) & 0xFFu;
    const int64_t product = (int64_t)(int32_t)(sum << shift) * constants[3 + 2 * second];
    const int32_t found = ((int32_t)(product >> 32) + constants[4 + 2 * second]) >> 12;
    return (int8_t)ednn_clamp(found, -128, 127);
}

/* One channel (of a pair its first or second) of `words` pairs of activations that lie `apart` words from one another. */
static int8_t one(const uint32_t *x, int32_t words, int32_t apart, const int8_t *weights, const int32_t *constants,
                  int32_t second)
{
    uint32_t sum = (uint32_t)constants[second];
    for (int32_t i = 0; i < words; i++) {
        const uint32_t w = ednn_load(weights + 4 * i);
        sum = dual(x[i * apart], second ? ednn_odd(w) : ednn_even(w), sum);
    }
    return scaled(sum, constants, second);
}

void ednn_matrix_lanes(const uint32_t *lanes, const int8_t *weights, const int32_t *constants, int8_t *out, int32_t stride,
                       int32_t channels, const uint32_t *end)
{
    const int32_t words = (int32_t)(end - lanes) / EDNN_LANES;
    for (int32_t o = 0; o < channels; o++) {
        for (int32_t lane = 0; lane < EDNN_LANES; lane++) {
            out[lane * stride + o] =
                one(lanes + lane, words, EDNN_LANES, weights + (o / 2) * 4 * words, constants + (o / 2) * 7, o & 1);
        }
    }
}

void ednn_matrix_row(const int8_t *x, const int8_t *weights, const int32_t *constants, int8_t *out, int32_t channels,
                     int32_t depth)
{
    for (int32_t o = 0; o < channels; o++) {
        const int8_t *w = weights + (o / 2) * 2 * depth;
        const int32_t *c = constants + (o / 2) * 7;
        uint32_t sum = (uint32_t)c[o & 1];
        for (int32_t i = 0; i < depth; i += 4, w += 8) {
            const uint32_t a = ednn_load(w), b = ednn_load(w + 4), values = ednn_load(x + i);
            sum = dual(ednn_even(values), (o & 1) ? ednn_odd(a) : ednn_even(a), sum);
            sum = dual(ednn_odd(values), (o & 1) ? ednn_odd(b) : ednn_even(b), sum);
        }
        out[o] = scaled(sum, c, o & 1);
    }
}

#endif
