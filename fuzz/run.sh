#!/usr/bin/env bash
# Build the fuzz targets and run each for so many seconds, or those named: fuzz/run.sh SECONDS [TARGET...]. Corpora are kept in
# build/fuzz/corpus; an input that fails is written to build/fuzz and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "fuzzing needs clang++: apt-get install clang llvm" >&2; exit 1; }
seconds=$1
shift
[ $# -gt 0 ] || set -- tables streams block_raw block_rans16 block_rans32 block_spatial container safetensors
export PATH=$PWD/.venv/bin:$PATH
CXX=clang++ cmake -S fuzz -B build/fuzz -G Ninja >/dev/null
ninja -C build/fuzz --quiet
python fuzz/seeds.py build/fuzz/corpus
for target in "$@"; do
    mkdir -p "build/fuzz/corpus/$target"
    echo "$target"
    case $target in
        container | safetensors) command=(python -W ignore fuzz/readers.py "$target" -dict=fuzz/readers.dict) ;;
        *) command=("build/fuzz/$target") ;;
    esac
    "${command[@]}" -max_total_time="$seconds" -max_len=8192 -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/$target-" "build/fuzz/corpus/$target" 2>&1 |
        grep -Ev '^(INFO|WARNING|Loaded|#|"|$)|NEW_FUNC'
done
