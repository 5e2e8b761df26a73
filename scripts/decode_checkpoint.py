#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decode a wcodec file: a thin caller of wcodec.decode_checkpoint (the command line is `wcodec
decode`).
"""

import argparse

import wcodec

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("input", help="model.wcodec")
parser.add_argument("output", help="model.safetensors")
parser.add_argument("--device", default="cpu")
parser.add_argument("--use-gpu", action="store_true")
parser.add_argument("--threads", type=int)
arguments = parser.parse_args()

statistics = wcodec.decode_checkpoint(
    arguments.input,
    arguments.output,
    device=arguments.device,
    use_gpu=arguments.use_gpu,
    threads=arguments.threads,
)
print(f"{statistics['output_bytes']} bytes, {statistics['n_layers']} layers")
