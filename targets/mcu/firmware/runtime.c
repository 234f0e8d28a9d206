/* What compilers call by themselves: memory functions, and for Armv6-M 64-bit arithmetic. SPDX-License-Identifier: 0BSD */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((may_alias)) word_t;

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

__attribute__((weak)) void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    uint8_t *d = to;
    const uint8_t *s = from;
    if ((((uintptr_t)d | (uintptr_t)s) & 3u) == 0u) {
        for (; size >= 16u; size -= 16u, d += 16, s += 16) {
            const word_t a = ((const word_t *)s)[0], b = ((const word_t *)s)[1];
            const word_t c = ((const word_t *)s)[2], e = ((const word_t *)s)[3];
            ((word_t *)d)[0] = a;
            ((word_t *)d)[1] = b;
            ((word_t *)d)[2] = c;
            ((word_t *)d)[3] = e;
        }
        for (; size >= 4u; size -= 4u, d += 4, s += 4) {
            *(word_t *)d = *(const word_t *)s;
        }
    }
    while (size-- > 0u) {
        *d++ = *s++;
    }
    return to;
}

__attribute__((weak)) void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *d = to;
    const uint8_t *s = from;
    if ((uintptr_t)d - (uintptr_t)s >= size) {
        return memcpy(to, from, size);
    }
    if ((((uintptr_t)d | (uintptr_t)s | size) & 3u) == 0u) {
        for (; size > 0u; size -= 4u) {
            *(word_t *)(d + size - 4) = *(const word_t *)(s + size - 4);
        }
    }
    for (; size > 0u; size--) {
        d[size - 1] = s[size - 1];
    }
    return to;
}

__attribute__((weak)) void *memset(void *to, int value, size_t size)
{
    uint8_t *d = to;
    const word_t word = 0x01010101u * (uint8_t)value;
    for (; size > 0u && ((uintptr_t)d & 3u) != 0u; size--) {
        *d++ = (uint8_t)value;
    }
    for (; size >= 16u; size -= 16u, d += 16) {
        ((word_t *)d)[0] = word;
        ((word_t *)d)[1] = word;
        ((word_t *)d)[2] = word;
        ((word_t *)d)[3] = word;
    }
    for (; size >= 4u; size -= 4u, d += 4) {
        *(word_t *)d = word;
    }
    while (size-- > 0u) {
        *d++ = (uint8_t)value;
    }
    return to;
}

#if defined(__arm__)
void __aeabi_memcpy(void *to, const void *from, size_t size);
void __aeabi_memcpy4(void *to, const void *from, size_t size);
void __aeabi_memcpy8(void *to, const void *from, size_t size);
void __aeabi_memmove(void *to, const void *from, size_t size);
void __aeabi_memmove4(void *to, const void *from, size_t size);
void __aeabi_memset(void *to, size_t size, int value);
void __aeabi_memset4(void *to, size_t size, int value);
void __aeabi_memset8(void *to, size_t size, int value);
void __aeabi_memclr(void *to, size_t size);
void __aeabi_memclr4(void *to, size_t size);
void __aeabi_memclr8(void *to, size_t size);
void __aeabi_memcpy(void *to, const void *from, size_t size) { (void)memcpy(to, from, size); }
void __aeabi_memcpy4(void *to, const void *from, size_t size) { (void)memcpy(to, from, size); }
void __aeabi_memcpy8(void *to, const void *from, size_t size) { (void)memcpy(to, from, size); }
void __aeabi_memmove(void *to, const void *from, size_t size) { (void)memmove(to, from, size); }
void __aeabi_memmove4(void *to, const void *from, size_t size) { (void)memmove(to, from, size); }
void __aeabi_memset(void *to, size_t size, int value) { (void)memset(to, value, size); }
void __aeabi_memset4(void *to, size_t size, int value) { (void)memset(to, value, size); }
void __aeabi_memset8(void *to, size_t size, int value) { (void)memset(to, value, size); }
void __aeabi_memclr(void *to, size_t size) { (void)memset(to, 0, size); }
void __aeabi_memclr4(void *to, size_t size) { (void)memset(to, 0, size); }
void __aeabi_memclr8(void *to, size_t size) { (void)memset(to, 0, size); }
#endif

#if defined(__ARM_ARCH_6M__)

typedef union {
    uint64_t whole;
    struct {
        uint32_t low, high;
    } half;
} parts_t;

uint64_t __aeabi_lmul(uint64_t a, uint64_t b);
uint64_t __aeabi_llsl(uint64_t x, int by);
uint64_t __aeabi_llsr(uint64_t x, int by);
int64_t __aeabi_lasr(int64_t x, int by);

uint64_t __aeabi_lmul(uint64_t a, uint64_t b)
{
    const parts_t x = {a}, y = {b};
    const uint32_t x0 = x.half.low & 0xFFFFu, x1 = x.half.low >> 16, y0 = y.half.low & 0xFFFFu, y1 = y.half.low >> 16;
    const uint32_t low = x0 * y0, middle = x1 * y0 + (low >> 16), other = x0 * y1 + (middle & 0xFFFFu);
    parts_t out;
    out.half.low = (other << 16) | (low & 0xFFFFu);
    out.half.high = x1 * y1 + (middle >> 16) + (other >> 16) + x.half.low * y.half.high + x.half.high * y.half.low;
    return out.whole;
}

uint64_t __aeabi_llsl(uint64_t x, int by)
{
    parts_t p = {x};
    if (by >= 32) {
        p.half.high = p.half.low << (by - 32);
        p.half.low = 0;
    } else if (by > 0) {
        p.half.high = (p.half.high << by) | (p.half.low >> (32 - by));
        p.half.low <<= by;
    }
    return p.whole;
}

uint64_t __aeabi_llsr(uint64_t x, int by)
{
    parts_t p = {x};
    if (by >= 32) {
        p.half.low = p.half.high >> (by - 32);
        p.half.high = 0;
    } else if (by > 0) {
        p.half.low = (p.half.low >> by) | (p.half.high << (32 - by));
        p.half.high >>= by;
    }
    return p.whole;
}

int64_t __aeabi_lasr(int64_t x, int by)
{
    parts_t p = {(uint64_t)x};
    const int32_t high = (int32_t)p.half.high;
    if (by >= 32) {
        p.half.low = (uint32_t)(high >> (by - 32));
        p.half.high = (uint32_t)(high >> 31);
    } else if (by > 0) {
        p.half.low = (p.half.low >> by) | (p.half.high << (32 - by));
        p.half.high = (uint32_t)(high >> by);
    }
    return (int64_t)p.whole;
}

uint32_t __aeabi_uidiv(uint32_t a, uint32_t b);
int32_t __aeabi_idiv(int32_t a, int32_t b);
uint64_t __aeabi_uidivmod(uint32_t a, uint32_t b);
uint64_t __aeabi_idivmod(int32_t a, int32_t b);

uint32_t __aeabi_uidiv(uint32_t a, uint32_t b)
{
    uint32_t quotient = 0, bit = 1;
    if (b == 0u) {
        return 0;
    }
    while (b < a && (b & 0x80000000u) == 0u) {
        b <<= 1;
        bit <<= 1;
    }
    for (; bit != 0u; bit >>= 1, b >>= 1) {
        if (a >= b) {
            a -= b;
            quotient |= bit;
        }
    }
    return quotient;
}

int32_t __aeabi_idiv(int32_t a, int32_t b)
{
    const uint32_t found = __aeabi_uidiv(a < 0 ? 0u - (uint32_t)a : (uint32_t)a, b < 0 ? 0u - (uint32_t)b : (uint32_t)b);
    return (int32_t)((a ^ b) < 0 ? 0u - found : found);
}

uint64_t __aeabi_uidivmod(uint32_t a, uint32_t b)
{
    const uint32_t quotient = __aeabi_uidiv(a, b);
    return ((uint64_t)(a - quotient * b) << 32) | quotient;
}

uint64_t __aeabi_idivmod(int32_t a, int32_t b)
{
    const int32_t quotient = __aeabi_idiv(a, b);
    return ((uint64_t)((uint32_t)a - (uint32_t)quotient * (uint32_t)b) << 32) | (uint32_t)quotient;
}

#endif
