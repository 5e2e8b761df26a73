#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encode a safetensors file: a thin caller of wcodec.encode_checkpoint (the command line is `wcodec
encode`).
"""

import argparse

import wcodec

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("input", help="model.safetensors")
parser.add_argument("output", help="model.wcodec")
parser.add_argument("--level", default="default", choices=wcodec.LEVELS)
parser.add_argument("--tile-size", type=int, default=16)
parser.add_argument("--model-name")
parser.add_argument("--quant-type")
parser.add_argument("--threads", type=int)
arguments = parser.parse_args()

statistics = wcodec.encode_checkpoint(
    arguments.input,
    arguments.output,
    level=arguments.level,
    tile_size=arguments.tile_size,
    model_name=arguments.model_name,
    quant_type=arguments.quant_type,
    threads=arguments.threads,
    verbose=True,
)
print(
    f"{statistics['input_bytes']} -> {statistics['output_bytes']} bytes, "
    f"ratio {statistics['compression_ratio']:.4f}"
)
