#!/usr/bin/env bash
# The scalar core under ThreadSanitizer, then under valgrind if that is there: fuzz/threads.cpp built and run.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/threads
mapfile -t sources < <(ls core/*.cpp fuzz/threads.cpp | grep -v '_avx\|_neon\|bindings')
build() {
    local to=build/threads/$1
    shift
    g++ -std=c++20 -O1 -g -Icore "$@" "${sources[@]}" -o "$to" -pthread
}
build tsan -fsanitize=thread
build plain
build/threads/tsan
echo "ThreadSanitizer: nothing"
if command -v valgrind >/dev/null; then
    valgrind --quiet --error-exitcode=1 --leak-check=no build/threads/plain
    echo "valgrind: nothing"
else
    echo "valgrind is not there: apt-get install valgrind"
fi
