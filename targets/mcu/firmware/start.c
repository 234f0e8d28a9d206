/* Start-up of a firmware that is measured: memory as C expects it, then main. SPDX-License-Identifier: 0BSD */
#include <stdint.h>

#define BOOT __attribute__((section(".boot"), used, noinline))

extern uint32_t edgedl_data_start[], edgedl_data_end[], edgedl_data_stored[], edgedl_bss_start[], edgedl_bss_end[];
extern uint8_t edgedl_stack_top[], edgedl_arena[];

void edgedl_reset(void);
void edgedl_main(void);
void EDGEDL_INVOKE(uint8_t *arena);

BOOT static void prepare(void)
{
    const volatile uint32_t *from = edgedl_data_stored;
    for (volatile uint32_t *to = edgedl_data_start; to < edgedl_data_end; to++) {
        *to = *from++;
    }
    for (volatile uint32_t *to = edgedl_bss_start; to < edgedl_bss_end; to++) {
        *to = 0;
    }
}

#if defined(__arm__)

static void call_host(uint32_t operation, const void *what) __attribute__((section(".boot"), unused));
static void call_host(uint32_t operation, const void *what)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = what;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

/* Runs the model once and ends the emulator that gave this firmware its semihosting. */
BOOT void edgedl_main(void)
{
    EDGEDL_INVOKE(edgedl_arena);
    call_host(0x18, (const void *)0x20026); /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    for (;;) {
    }
}

BOOT void edgedl_reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: the FPU and vector unit are on */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    prepare();
    edgedl_main();
}

BOOT static void fault(void)
{
    call_host(0x18, (const void *)0x20023); /* SYS_EXIT, ADP_Stopped_RunTimeErrorUnknown */
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))edgedl_stack_top, edgedl_reset, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, fault,
};

#else

BOOT void edgedl_main(void)
{
    EDGEDL_INVOKE(edgedl_arena);
    for (;;) {
    }
}

__attribute__((section(".boot"), used, naked)) void edgedl_reset(void)
{
    __asm__ volatile("la sp, edgedl_stack_top\n\tj edgedl_begin");
}

BOOT void edgedl_begin(void);
BOOT void edgedl_begin(void)
{
    prepare();
    edgedl_main();
}

#endif
