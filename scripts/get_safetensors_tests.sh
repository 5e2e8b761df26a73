#!/usr/bin/env bash
# Put safetensors' own Python tests into DIR/tests: scripts/get_safetensors_tests.sh DIR
# They are in its source distribution, which pip gets. pip asks a source distribution for its
# metadata, and that of safetensors would need a Rust compiler, so a stand-in answers.
set -euo pipefail
version=0.8.0
python=${WCODEC_PYTHON:-python3}
directory=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/maturin.py" <<PY
import pathlib

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    name = "safetensors-$version.dist-info"
    path = pathlib.Path(directory, name)
    path.mkdir()
    (path / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: $version\n")
    return name
PY
PYTHONPATH=$work "$python" -m pip download -qq --disable-pip-version-check --no-deps --no-build-isolation \
    --no-binary safetensors -d "$work" "safetensors==$version"
mkdir -p "$directory"
tar -xzf "$work/safetensors-$version.tar.gz" -C "$directory" --strip-components=3 \
    "safetensors-$version/bindings/python/tests"
