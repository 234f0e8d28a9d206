/* Start-up of a firmware that is measured: memory as C expects it, then main. SPDX-License-Identifier: 0BSD */
#include <stdint.h>

#define BOOT __attribute__((section(".boot"), used, noinline))
#define TEXT(x) #x
#define NAME(x) TEXT(x)

extern uint32_t edgedl_data_start[], edgedl_data_end[], edgedl_data_stored[], edgedl_bss_start[], edgedl_bss_end[];
extern uint8_t edgedl_stack_top[], edgedl_boot_stack_top[], edgedl_arena[], edgedl_dump_start[], edgedl_dump_bytes[];

void edgedl_reset(void);
void edgedl_main(void);
void edgedl_after(void);
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

__attribute__((section(".boot"), noinline)) static uint32_t call_host(uint32_t operation, const void *what)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = what;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static const char arena_file[] __attribute__((section(".boot.text"))) = "arena.out";
static const char stack_file[] __attribute__((section(".boot.text"))) = "stack.out";

__attribute__((section(".boot"), noinline)) static void dump(const char *to, const uint8_t *from, uint32_t size)
{
    const uint32_t name[3] = {(uint32_t)to, 5u, sizeof arena_file - 1u}; /* "wb" */
    const uint32_t file = call_host(0x01, name);
    const uint32_t what[3] = {file, (uint32_t)from, size};
    (void)call_host(0x05, what);
    (void)call_host(0x02, &file);
}

/* Writes the arena and the stack to files and ends the emulator, by Arm's semihosting. */
BOOT void edgedl_after(void)
{
    dump(arena_file, edgedl_dump_start, (uint32_t)edgedl_dump_bytes);
    dump(stack_file, edgedl_stack_top - 65536, 65536);
    (void)call_host(0x18, (const void *)0x20026); /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    for (;;) {
    }
}

/* Runs the model once, on a stack that nothing else has used. Where the emulator calls the model itself, it stops here
   before the first instruction. */
__attribute__((section(".boot"), used, naked)) void edgedl_main(void)
{
    __asm__ volatile("ldr r0, =edgedl_stack_top\n\tmov sp, r0\n\tldr r0, =edgedl_arena\n\tbl " NAME(EDGEDL_INVOKE) "\n\t"
                     "ldr r0, =edgedl_boot_stack_top\n\tmov sp, r0\n\tbl edgedl_after\n\t.ltorg");
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
    (void)call_host(0x18, (const void *)0x20023); /* SYS_EXIT, ADP_Stopped_RunTimeErrorUnknown */
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))edgedl_boot_stack_top, edgedl_reset, fault, fault, fault, fault, fault, fault,
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
