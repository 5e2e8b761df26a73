#!/usr/bin/env bash
# Make .venv-sanitized, which sees the packages of .venv and has a wcodec of its own, its core built with AddressSanitizer and
# UBSan. Run by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v g++ >/dev/null || { echo "test-asan needs g++: apt-get install g++" >&2; exit 1; }
.venv/bin/python -m venv --clear .venv-sanitized
packages=$(echo .venv-sanitized/lib/python3*/site-packages)
(cd .venv/lib/python3*/site-packages && pwd) >"$packages/of_the_other.pth"
export PATH=$PWD/.venv/bin:$PATH CXX=g++ SKBUILD_BUILD_DIR=build/sanitized SKBUILD_CMAKE_DEFINE=WCODEC_SANITIZE=address,undefined
.venv-sanitized/bin/python -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps -e .
