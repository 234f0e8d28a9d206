"""Small models in C for tests of the emulated cores, which need no converter."""

from __future__ import annotations

import numpy as np

CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "rv32imc")  # what unicorn has

# 16 int8 at 0 -> 8 int32 at 16: a dense layer, then squares; variables of both kinds, a constant table
TWO_LAYERS = {
    "net.h": "#include <stdint.h>\nvoid net_invoke(uint8_t *arena);\n",
    "kernels.h": "#include <stdint.h>\nvoid dense(const int8_t *w, const int8_t *x, int32_t *y);\nvoid square(int32_t *y);\n",
    "kernels.c": """#include "kernels.h"
void dense(const int8_t *w, const int8_t *x, int32_t *y)
{
    for (int o = 0; o < 8; o++) {
        int64_t sum = 0;
        for (int i = 0; i < 16; i++) sum += (int64_t)w[o * 16 + i] * x[i];
        y[o] = (int32_t)(sum >> 1);
    }
}
void square(int32_t *y)
{
    for (int o = 0; o < 8; o++) y[o] = (int32_t)(((int64_t)y[o] * y[o]) >> 3);
}
""",
    "net.c": """#include "net.h"
#include <string.h>
#include "kernels.h"
#ifndef EDNN_LAYER
#define EDNN_LAYER(i) ((void)0)
#endif
static const int8_t weights[128] = {WEIGHTS};
int32_t calls = 7;
int32_t zeros[5];
void net_invoke(uint8_t *arena)
{
    EDNN_LAYER(0);
    dense(weights, (const int8_t *)arena, (int32_t *)(void *)(arena + 16));
    EDNN_LAYER(1);
    calls += zeros[1] + 1;
    square((int32_t *)(void *)(arena + 16));
    EDNN_LAYER(2);
}
""",
}
WEIGHTS = np.random.default_rng(0).integers(-128, 128, (8, 16))
TWO_LAYERS["net.c"] = TWO_LAYERS["net.c"].replace("WEIGHTS", ", ".join(map(str, WEIGHTS.ravel())))
ARENA = 48


def expected(x: np.ndarray) -> np.ndarray:
    """What TWO_LAYERS gives."""
    y = (WEIGHTS.astype(np.int64) @ x.astype(np.int64)) >> 1
    return ((y * y) >> 3).astype(np.int32)


def broken(body: str, before: str = "") -> dict[str, str]:
    """A model whose second layer does `body`."""
    code = (
        f"#include <stdint.h>\n#include <string.h>\n{before}\nvoid net_invoke(uint8_t *arena)\n{{\n    EDNN_LAYER(0);\n"
    )
    return {"net.c": f"{code}    arena[0] = 1;\n    EDNN_LAYER(1);\n    {body}\n    EDNN_LAYER(2);\n}}\n"}
