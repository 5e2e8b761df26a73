#!/usr/bin/env bash
# Build the fuzz targets and run each: fuzz/run.sh SECONDS. Corpora are kept in build/fuzz/corpus; an input that fails is written to
# build/fuzz and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "fuzzing needs clang++: apt-get install clang llvm" >&2; exit 1; }
export PATH=$PWD/.venv/bin:$PATH
CXX=clang++ cmake -S fuzz -B build/fuzz -G Ninja >/dev/null
ninja -C build/fuzz --quiet
python fuzz/seeds.py build/fuzz/corpus
for target in tables streams block_raw block_rans16 block_rans32 block_spatial; do
    mkdir -p "build/fuzz/corpus/$target"
    echo "$target"
    "build/fuzz/$target" -max_total_time="$1" -max_len=8192 -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/$target-" "build/fuzz/corpus/$target"
done
