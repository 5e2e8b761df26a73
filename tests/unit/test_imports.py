# SPDX-License-Identifier: Apache-2.0
"""Who may import whom (ARCHITECTURE.md), and what importing wcodec must not load."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wcodec"

LEAVES = {"errors", "dtypes", "limits", "memory", "block_header", "overlap", "_version"}
CONTAINER = LEAVES | {"checksum", "strict_json", "zstd_frame", "container"}
CODEC = LEAVES | {"zstd_frame", "codec"}
WINDOWS = CONTAINER | CODEC | {"windows"}
DECODE = WINDOWS | {
    "checkpoint",
    "dequantise",
    "directories",
    "progress",
    "publication",
    "runs",
    "safetensors_file",
}
# Package or module -> what it may import of wcodec. What is not here (encode, decode, cli ...) may
# import anything below it.
ALLOWED = {
    "errors": set(),
    "block_header": set(),
    "_version": set(),
    "dtypes": set(),
    "limits": {"errors"},
    "memory": set(),
    "overlap": set(),
    "checksum": {"_core"},
    "strict_json": {"errors"},
    "progress": set(),
    "zstd_frame": {"errors"},
    "publication": {"errors"},
    "safetensors_file": LEAVES | {"strict_json"},
    "container": CONTAINER,
    "codec": CODEC,
    "codec.batch": CODEC | {"_core"},
    "safetensors_stream": LEAVES | {"safetensors_file"},
    "sources": LEAVES | {"checksum", "safetensors_file", "safetensors_stream"},
    "checkpoint": CONTAINER | {"publication", "safetensors_file"},
    "directories": LEAVES | {"checkpoint", "progress", "publication"},
    "windows": WINDOWS,
    "runs": WINDOWS,
    "decode": DECODE | {"cuda", "torch_tensors"},  # these on request
    "dequantise": LEAVES | {"safetensors_file"},
    "quantise": LEAVES | {"dequantise", "safetensors_file", "sources"},
    "tensor_reader": LEAVES | {"sources"},
    "layer_encoder": CONTAINER | CODEC | {"progress", "sources", "tensor_reader"},
    "encode": DECODE | {"decode", "layer_encoder", "quantise", "sources"},
    "slices": WINDOWS,
    "indexing": {"errors", "slices"},
    "tensor_files": DECODE | {"decode", "inspection", "slices"},
    "handle": DECODE
    | {"decode", "indexing", "tensor_files", "torch_tensors", "gpu_files"},  # these two on request
    "numpy": DECODE | {"decode", "encode", "handle", "tensor_files"},
    "torch_tensors": LEAVES,
    "gpu_files": LEAVES | {"cuda", "decode", "indexing", "tensor_files", "torch_tensors"},
    "lazy_tensor": LEAVES
    | {"gpu_files", "safetensors_file", "handle", "tensor_files", "torch_tensors"},
    "torch": DECODE
    | {"conversions", "cuda", "decode", "encode", "gpu_files", "handle", "lazy_tensor"}
    | {"tensor_files", "torch_tensors"},
    "conversions": set(),
    "originals": DECODE | {"decode"},
    "hub": DECODE | {"decode", "inspection"},
    "transformers": DECODE | {"encode", "hub", "originals", "torch"},
    "layers": DECODE | {"decode"},
    "comparing": DECODE | {"decode", "layers"},
    "editing": DECODE | {"decode", "layer_encoder", "layers", "sources"},
    "recovery": DECODE | {"decode", "editing"},
    "codings": DECODE | {"decode"},
    "inspection": CONTAINER | CODEC | {"checkpoint", "codings", "decode", "progress"},
    "cuda": WINDOWS | {"cuda", "slices"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of wcodec that a file imports anywhere, by their first part."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "wcodec":
                names = [f"wcodec.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("wcodec.")}
    return found


def test_every_module_imports_only_what_it_may():
    checked = set()
    for name, path in modules().items():
        rule = name if name in ALLOWED else name.split(".")[0]
        imported = imports_of(path)
        if rule in ALLOWED:
            assert imported <= ALLOWED[rule], f"{name} imports {imported - ALLOWED[rule]}"
            checked.add(rule)
        else:
            assert rule in ("", "__main__", "cli"), f"{name} has no rule here"
            assert "_core" not in imported
    assert checked >= ALLOWED.keys() - {"cuda"}, "a rule without a module"


def test_the_decoder_needs_no_encoder():
    seen, todo = set(), ["decode", "inspection"]
    paths = modules()
    while todo:
        name = todo.pop()
        if name not in seen and name in paths:
            seen.add(name)
            imported = imports_of(paths[name])
            todo += [m for m in paths if m.split(".")[0] in imported]
    decoders = {name for name in seen if not name.startswith(("container", "codec"))}
    assert not decoders & {"encode", "sources", "safetensors_stream"}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("statement", ["import wcodec", "import wcodec.cli.main"])
def test_import_is_light(statement):
    loaded = run_python(f"import sys; {statement}; print(*sys.modules)").split()
    assert not {"torch", "numpy", "rich", "transformers", "zstandard", "wcodec._core"} & set(loaded)


def test_using_the_codec_loads_no_torch_and_no_driver():
    code = (
        "import sys, wcodec, wcodec.numpy; wcodec.encode_array; wcodec.info; wcodec.safe_open; "
        "print(*sys.modules)"
    )
    loaded = run_python(code).split()
    assert "numpy" in loaded
    assert not {"torch", "transformers", "wcodec.cuda"} & set(loaded)


def test_looking_at_a_small_file_loads_what_it_needs(tmp_path):
    path = tmp_path / "a.wcodec"
    run_python(
        f"import numpy, wcodec; wcodec.encode_checkpoint({{'a': numpy.ones(9)}}, {str(path)!r})"
    )
    code = "import sys; from wcodec.cli.main import run; run(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "info", path], capture_output=True, check=True
    )
    loaded = set(done.stdout.decode().splitlines()[-1].split())
    assert "wcodec.inspection" in loaded
    assert not {"concurrent.futures", "hashlib", "logging", "random", "rich", "zstandard"} & loaded
    assert not {"wcodec.encode", "wcodec.codings", "wcodec.sources"} & loaded


def test_public_names_exist():
    import wcodec

    extras = {
        "torch": {"load_to_torch", "load_wcodec_checkpoint", "from_pretrained"},
        "transformers": {"from_pretrained"},
    }
    missing = [names for extra, names in extras.items() if not importlib.util.find_spec(extra)]
    for name in set(wcodec.__all__).difference(*missing):
        assert getattr(wcodec, name) is not None
    assert not set(wcodec.__all__) & modules().keys(), "importing the module would hide the name"
    with pytest.raises(AttributeError):
        wcodec.no_such_name  # noqa: B018


def test_the_reference_decoder_stands_alone():
    source = (ROOT / "tools" / "reference_decoder.py").read_text()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | {"numpy", "zstandard"}, name


def test_only_the_bindings_include_nanobind():
    for path in (ROOT / "core").iterdir():
        includes = "nanobind" in path.read_text().split("namespace wcodec")[0]
        assert not includes or path.name == "bindings.cpp", path


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_paths_named_in_documents_exist(document):
    text = (ROOT / document).read_text()
    folders = "core|src|tests|docs|tools|scripts|examples|benchmarks"
    named = re.findall(rf"[`(]((?:{folders})/[^`)\s<>]*)[`)]", text)
    assert named
    for path in named:
        assert (ROOT / path).exists(), f"{document} names {path}"
