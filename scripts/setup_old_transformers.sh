#!/usr/bin/env bash
# Put the oldest transformers that wcodec.transformers works with into .venv-transformers, to be
# found before the newest in .venv: the rest, torch above all, is that of .venv. Run by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf .venv-transformers
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --target .venv-transformers \
    transformers==4.51.3 accelerate==1.6.0 huggingface_hub==0.36.2 tokenizers==0.21.4 \
    requests charset_normalizer idna urllib3 certifi
