/* The emulator calls `edgedl_block` at the start of every block of instructions. SPDX-License-Identifier: 0BSD */
#include <stdint.h>

typedef struct {
    uint32_t bytes; /* of the block that starts here; 0: not seen, or to be told to `slow` each time */
    uint32_t instructions;
    uint32_t cycles;   /* estimated, the jump at its end not taken */
    uint32_t penalty; /* and how many more where it is taken */
} entry_t;

typedef struct {
    uint64_t instructions, cycles, limit;
    uint64_t base, span; /* of the code, in bytes */
    uint64_t next;       /* the address behind the last block */
    uint64_t penalty;    /* of its jump */
    entry_t *entries;    /* one for every two bytes of code */
    int32_t (*slow)(uint64_t address, uint32_t bytes); /* counts a block itself, and may fill its entry; not 0: stop */
    int32_t (*stop)(void *engine);
} counter_t;

void edgedl_block(void *engine, uint64_t address, uint32_t bytes, void *user)
{
    counter_t *c = user;
    const uint64_t at = address - c->base;
    if (address != c->next) {
        c->cycles += c->penalty;
    }
    c->next = address + bytes;
    if (at < c->span && c->entries[at >> 1].bytes == bytes) {
        const entry_t *e = &c->entries[at >> 1];
        c->instructions += e->instructions;
        c->cycles += e->cycles;
        c->penalty = e->penalty;
    } else if (c->slow(address, bytes) != 0) {
        c->stop(engine);
    }
    if (c->instructions > c->limit) {
        c->stop(engine);
    }
}
