/* A plugin of QEMU's code generator that counts the instructions of the model. The few prototypes of its interface that it
   needs are declared here, since Debian ships no qemu-plugin.h. SPDX-License-Identifier: 0BSD */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
typedef void (*tb_trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*exec_cb)(unsigned int cpu, void *data);
typedef void (*exit_cb)(qemu_plugin_id_t id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, exec_cb cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_cb cb, int flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb cb, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MAX_LAYERS = 4096, NO_REGISTERS = 0 };

typedef struct {
    uint32_t layer;
    uint64_t behind; /* instructions of its block from the mark on: they were added when the block began */
} mark_t;

static uint64_t total, limit, first, end, marks[MAX_LAYERS], starts[MAX_LAYERS];
static uint8_t seen[MAX_LAYERS];
static uint32_t layers;
static const char *out;

static void write_out(const char *state)
{
    FILE *file = fopen(out, "w");
    if (file == NULL) {
        return;
    }
    fprintf(file, "%s %llu", state, (unsigned long long)total);
    for (uint32_t i = 0; i < layers; i++) {
        fprintf(file, " %lld", seen[i] ? (long long)starts[i] : -1LL);
    }
    fprintf(file, "\n");
    fclose(file);
}

static void ran(unsigned int cpu, void *data)
{
    (void)cpu;
    total += (uint64_t)(uintptr_t)data;
    if (total > limit) {
        write_out("limit");
        _Exit(3);
    }
}

static void marked(unsigned int cpu, void *data)
{
    const mark_t *m = data;
    (void)cpu;
    if (!seen[m->layer]) {
        seen[m->layer] = 1;
        starts[m->layer] = total - m->behind;
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    const size_t n = qemu_plugin_tb_n_insns(tb);
    const uint64_t at = n > 0 ? qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0)) : 0;
    (void)id;
    if (n == 0 || at < first || at >= end) {
        return;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, NO_REGISTERS, (void *)(uintptr_t)n);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        for (uint32_t layer = 0; layer < layers; layer++) {
            mark_t *m;
            if (marks[layer] != qemu_plugin_insn_vaddr(insn) || (m = malloc(sizeof *m)) == NULL) {
                continue;
            }
            m->layer = layer;
            m->behind = n - i;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, NO_REGISTERS, m);
        }
    }
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    write_out("done");
}

__attribute__((visibility("default"))) int qemu_plugin_install(
    qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    limit = UINT64_MAX;
    for (int i = 0; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        if (value == NULL) {
            return 1;
        }
        value++;
        if (strncmp(argv[i], "first=", 6) == 0) {
            first = strtoull(value, NULL, 0);
        } else if (strncmp(argv[i], "end=", 4) == 0) {
            end = strtoull(value, NULL, 0);
        } else if (strncmp(argv[i], "limit=", 6) == 0) {
            limit = strtoull(value, NULL, 0);
        } else if (strncmp(argv[i], "out=", 4) == 0) {
            out = strdup(value);
        } else if (strncmp(argv[i], "marks=", 6) == 0) {
            FILE *file = fopen(value, "r");
            unsigned long long address;
            while (file != NULL && layers < MAX_LAYERS && fscanf(file, "%llx", &address) == 1) {
                marks[layers++] = address;
            }
            if (file != NULL) {
                fclose(file);
            }
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return out == NULL;
}
