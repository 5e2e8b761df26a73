#!/usr/bin/env bash
# Make .venv-bench, which sees all of .venv and has the peers of benchmarks/peers.txt besides. One
# that cannot be installed is named and left out. Run by `make bench`, after scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
.venv-bench/bin/python -m pip --version >/dev/null 2>&1 ||
    .venv/bin/python -m venv --clear .venv-bench
echo "import site; site.addsitedir('$(.venv/bin/python -c "$purelib")')" \
    >"$(.venv-bench/bin/python -c "$purelib")/wcodec_venv.pth"
grep -v '^#' benchmarks/peers.txt | while read -r package; do
    .venv-bench/bin/python -m pip install -qq --disable-pip-version-check "$package" ||
        echo "left out: $package cannot be installed" >&2
done
