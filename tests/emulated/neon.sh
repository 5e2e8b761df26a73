#!/usr/bin/env bash
# Check the kernels of NEON on a machine of another kind: tests/emulated/neon.sh. They are compiled for aarch64 and linked with
# checks.cpp, and qemu, an emulator of the processor, runs the program. Takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/../.."
cxx=aarch64-linux-gnu-g++
for tool in $cxx qemu-aarch64-static; do
    command -v $tool >/dev/null || { echo "this needs $tool: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }
done
build=build/emulated_neon
rm -rf $build
mkdir -p $build
isa=$(grep -o -- '"-march=armv8-a[^"]*"' CMakeLists.txt | tr -d '"')
objects=()
compile() {  # FLAGS FILE...
    for file in "${@:2}"; do
        $cxx -std=c++20 -O3 -Icore -Wall -Wextra -Werror $1 -c "$file" -o "$build/$(basename "$file").o"
        objects+=("$build/$(basename "$file").o")
    done
}
compile "" core/{rans16_scalar,rans16_neon,planes,frequency_table,token_coder,crc32}.cpp
compile "$isa" core/crc32_neon.cpp
compile "-DCHECKED=NEON_KERNELS" tests/emulated/checks.cpp
$cxx -static -o $build/checks "${objects[@]}"
qemu-aarch64-static $build/checks
