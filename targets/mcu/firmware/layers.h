/* Makes the start of each layer a symbol of the firmware: no instruction is added. SPDX-License-Identifier: 0BSD */
#ifndef EDGEDL_LAYERS_H
#define EDGEDL_LAYERS_H

/* The end of the model gets none: behind its last call it would keep the compiler from jumping there */
#define EDNN_LAYER(i)                                      \
    do {                                                   \
        if ((i) < EDNN_LAYERS) {                           \
            __asm__ volatile("edgedl_layer_" #i ":");      \
        }                                                  \
    } while (0)

#endif
