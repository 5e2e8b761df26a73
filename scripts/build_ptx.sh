#!/usr/bin/env bash
# Compile the GPU kernels to PTX, which the package holds and a driver turns into machine code:
# scripts/build_ptx.sh [OUTPUT]. Run it after a change of the kernels; tests/gpu/test_ptx_file.py
# compares. For sm_80 and newer; nvcc writes the PTX version of its own release, and the kernels
# need no more than 7.4 (CUDA 11.4), so that older drivers read it, too.
set -euo pipefail
cd "$(dirname "$0")/.."
kernels=src/wcodec/cuda/kernels
output=${1:-$kernels/kernels.ptx}
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
"$nvcc" -std=c++20 -arch=compute_80 -ptx -Icore -I$kernels $kernels/kernels.cu -o "$temporary/ptx"
# Without comments, which name the compiler's build, empty lines, and a hint that 7.4 does not know.
sed -E -e '\,^[[:space:]]*//,d' -e 's/^\.version .*/.version 7.4/' -e '/^[[:space:]]*$/d' \
    -e '/^[[:space:]]*\.pragma "used_bytes_mask/d' "$temporary/ptx" >"$output"
