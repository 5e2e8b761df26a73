#!/usr/bin/env bash
# Make .venv and install wcodec into it: scripts/setup.sh EXTRA, EXTRA one of those in pyproject.toml.
# Run by the Makefile. All it needs from the system, in one line:
#   apt-get install make g++ python3-venv python3-dev
# WCODEC_PYTHON names the interpreter to use. CMake and Ninja come from pip. No root.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=$1
python=${WCODEC_PYTHON:-python3}

missing=0
need() {
    echo "wcodec needs $1: $2" >&2
    missing=1
}

if ! command -v "$python" >/dev/null; then
    need "$python, 3.10 or newer" "apt-get install python3-venv python3-dev"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    need "Python 3.10 or newer" "apt-get install a newer one and set WCODEC_PYTHON to its name"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        need "venv and ensurepip" "apt-get install python3-venv"
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [ -f "$header" ] || need "Python.h" "apt-get install python3-dev"
fi

# The first compiler that can do it, so that an old default does not hide a newer one.
probe='#include <bit>\n#include <span>\nint main() { return std::popcount(0u); }\n'
compiler=
for candidate in "${CXX:-}" c++ g++ clang++; do
    if printf "$probe" | "$candidate" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; then
        compiler=$candidate
        break
    fi
done
[ -n "$compiler" ] || need "a C++20 compiler" "apt-get install g++"
[ "$missing" = 0 ] || exit 1

.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
pip_install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check "$@"
}

# No build isolation and a build folder that stays: a rebuild compiles only what changed.
mapfile -t build_requires < <(.venv/bin/python - <<'EOF'
import ast, pathlib, re
text = pathlib.Path("pyproject.toml").read_text()
print(*ast.literal_eval(re.search(r"^requires = (\[.*\])$", text, re.M)[1]), sep="\n")
EOF
)
pip_install cmake ninja "${build_requires[@]}"
CXX=$compiler SKBUILD_BUILD_DIR=build pip_install --no-build-isolation -e ".[$extra]"

# Type checkers read the source tree, not the installed package.
cp .venv/lib/python3*/site-packages/wcodec/_core.pyi src/wcodec/
