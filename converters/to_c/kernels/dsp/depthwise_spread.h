/* Depthwise convolution of int8 on Armv7E-M with more channels out than in. SPDX-License-Identifier: 0BSD */
#ifndef EDNN_DEPTHWISE_SPREAD_H
#define EDNN_DEPTHWISE_SPREAD_H

#include "depthwise_words.h"

#endif
