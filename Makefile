# Each target does its own set-up (scripts/setup.sh), again when a build input is newer than it.

.PHONY: demo test test-torch test-full test-asan test-threads test-avx512 test-neon fuzz bench lint format clean
.NOTPARALLEL:

python := .venv/bin/python
build_inputs := pyproject.toml CMakeLists.txt scripts/setup.sh $(wildcard core/*)
cpp_files = $(shell find $(wildcard core src tests fuzz) -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

demo: .venv/ready-test
	@$(python) examples/demo.py

test: .venv/ready-test
	@$(python) -m pytest -q -m "not slow"

test-torch: .venv/ready-test .venv/ready-test-transformers
	@$(python) -m pytest -q -m "not slow"

test-full: .venv/ready-test .venv/ready-test-transformers .venv-transformers/ready
	@WCODEC_OLD_TRANSFORMERS=.venv-transformers $(python) -m pytest -q

# Memory is not what it is elsewhere, so tests that measure it are left out.
test-asan: .venv-sanitized/ready
	@LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		.venv-sanitized/bin/python -m pytest -q -m "not slow" tests/unit tests/format tests/parity tests/roundtrip tests/cli \
		--ignore tests/roundtrip/test_memory.py --ignore tests/roundtrip/test_max_memory.py

SECONDS := 60
fuzz: .venv/ready-fuzz
	@fuzz/run.sh $(SECONDS)

test-threads:
	@fuzz/threads.sh

test-avx512:
	@tests/emulated/avx512.sh

test-neon:
	@tests/emulated/neon.sh

bench: .venv-bench/ready
	@.venv-bench/bin/python benchmarks/run.py

lint: .venv/ready-dev
	@$(python) -m ruff check -q
	@$(python) -m ruff format -q --check
	@$(python) -m mypy --no-error-summary
	@.venv/bin/clang-format --dry-run -Werror $(cpp_files)

format: .venv/ready-dev
	@$(python) -m ruff check -q --fix
	@$(python) -m ruff format -q
	@.venv/bin/clang-format -i $(cpp_files)

clean:
	@rm -rf .venv .venv-bench .venv-sanitized .venv-transformers build src/wcodec/_core.pyi .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -exec rm -rf {} +

.venv/ready-%: $(build_inputs)
	@scripts/setup.sh $*
	@touch $@

.venv-transformers/ready: scripts/setup_old_transformers.sh
	@scripts/setup_old_transformers.sh
	@touch $@

.venv-sanitized/ready: .venv/ready-test $(build_inputs) scripts/setup_sanitized.sh
	@scripts/setup_sanitized.sh
	@touch $@

.venv-bench/ready: .venv/ready-test scripts/setup_bench.sh benchmarks/peers.txt
	@scripts/setup_bench.sh
	@touch $@
