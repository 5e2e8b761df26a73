# SPDX-License-Identifier: Apache-2.0
"""The benchmark cases: a name, and tensors that are the same bits on every machine.

Everybody has the demo model and the synthetic cases. The others need data that is not committed:
a directory of all-MiniLM-L6-v2, named by WCODEC_MINILM, and a directory of safetensors files, named
by WCODEC_WEIGHTS (default: shared/weights beside the checkout). bf16, fp16, fp8 and int views are
casts or quantisations made here; they use no function of the C library and no generator whose
output may change with the version of numpy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from wcodec.dtypes import numpy_dtype
from wcodec.safetensors_file import SafetensorsFile

ROOT = Path(__file__).resolve().parents[1]
SYNTHETIC_ELEMENTS = (1024, 2048)
INT4_GROUP = 128
FP8_MAX = 448

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """Tensors to encode: a safetensors file, or a view that `make` derives of one or of nothing."""

    name: str
    file: Path | None = None
    make: Callable[[], Arrays] | None = None

    def arrays(self) -> Arrays:
        if self.make is not None:
            return self.make()
        assert self.file is not None
        return read_arrays(self.file)

    def file_array(self) -> np.ndarray:
        """The bytes of the safetensors file; of a view, those of one that is written of it."""
        data = (
            safetensors.numpy.save(self.arrays()) if self.file is None else self.file.read_bytes()
        )
        return np.frombuffer(data, np.uint8)


def read_arrays(path: Path) -> Arrays:
    """All tensors of a safetensors file, in file order."""
    arrays = {}
    with SafetensorsFile(path) as file:
        for entry in file.tensors:
            data = np.empty(entry.end - entry.start, np.uint8)
            file.read_into(entry.start, data)
            arrays[entry.name] = data.view(numpy_dtype(entry.dtype)).reshape(entry.shape)
    return arrays


def all_cases() -> tuple[list[Case], list[str]]:
    """The cases whose data is here, and a line on each source that is not."""
    cases = [Case("demo", file=ROOT / "examples" / "demo_model" / "model.safetensors")]
    cases += [Case(f"synthetic {name}", make=make) for name, make in SYNTHETIC.items()]
    missing = []
    weights = Path(os.environ.get("WCODEC_WEIGHTS", ROOT.parent / "shared" / "weights"))
    files = sorted(weights.glob("*.safetensors"))
    if not files:
        missing.append("weights: WCODEC_WEIGHTS names no directory with safetensors files")
    cases += [Case(f"weights {path.stem}", file=path) for path in files]
    cases += [
        Case("weights silero stft int8", make=lambda path=path: stft_int8(path))
        for path in files
        if path.stem == "silero_vad_f32"
    ]
    minilm = Path(os.environ.get("WCODEC_MINILM", "")) / "model.safetensors"
    if "WCODEC_MINILM" in os.environ and minilm.is_file():
        cases += minilm_cases(minilm)
    else:
        missing.append("minilm: WCODEC_MINILM names no all-MiniLM-L6-v2 directory")
    return cases, missing


def minilm_cases(path: Path) -> list[Case]:
    def view(name: str, change: Callable[[Arrays], Arrays]) -> Case:
        return Case(f"minilm {name}", make=lambda: change(read_arrays(path)))

    return [
        Case("minilm fp32", file=path),
        view("bf16", lambda arrays: cast(arrays, ml_dtypes.bfloat16)),
        view("fp16", lambda arrays: cast(arrays, np.float16)),
        view("fp8 e4m3", lambda arrays: quantise(arrays, fp8_per_tensor)),
        view("int8 per-channel", lambda arrays: quantise(arrays, int8_per_channel)),
        view("int8 per-tensor", lambda arrays: quantise(arrays, int8_per_tensor)),
        view("int4 g128", lambda arrays: quantise(arrays, int4_grouped)),
        view("int4 gptq", lambda arrays: quantise(arrays, int4_gptq)),
        view("position embeddings int8", position_embeddings_int8),
    ]


def position_embeddings_int8(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The position embeddings by themselves, as the spatial coding is to be seen on them."""
    name = "embeddings.position_embeddings.weight"
    return {name: int8_per_channel(arrays[name])[0]}


def stft_int8(path: Path) -> Arrays:
    """The kernel of a short-time Fourier transform: windowed sines and cosines, one a row."""
    kernel = read_arrays(path)["stft_conv.weight"]
    return {"stft_conv.weight": int8_per_channel(kernel.reshape(len(kernel), -1))[0]}


# --- views of fp32 tensors


def cast(arrays: Mapping[str, np.ndarray], dtype: type) -> Arrays:
    """Round every fp32 tensor to nearest, ties to even; the others stay."""
    return {n: a.astype(dtype) if a.dtype == np.float32 else a for n, a in arrays.items()}


def quantise(
    arrays: Mapping[str, np.ndarray],
    quantiser: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Arrays:
    """Replace every fp32 matrix by its quantised values and their fp32 scales; the others stay."""
    result = {}
    for name, array in arrays.items():
        if array.dtype == np.float32 and array.ndim == 2:
            result[name], result[f"{name}_scale"] = quantiser(array)
        else:
            result[name] = array
    return result


def absmax_scale(values: np.ndarray, axis: int | None, maximum: int) -> np.ndarray:
    """The step that maps the largest magnitude along `axis` to `maximum`; 1 where all are zero."""
    scale = np.abs(values).max(axis=axis, keepdims=True) / np.float32(maximum)
    return np.where(scale == 0, np.float32(1), scale)


def int8_per_channel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = absmax_scale(values, 1, 127)
    return np.rint(values / scale).astype(np.int8), scale


def int8_per_tensor(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = absmax_scale(values, None, 127)
    return np.rint(values / scale).astype(np.int8), scale


def fp8_per_tensor(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = absmax_scale(values, None, FP8_MAX)
    return (values / scale).astype(ml_dtypes.float8_e4m3fn), scale


def int4_grouped(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes 1 to 15 (8 is zero), two a byte, the first in the low half; a scale for each group of
    128 along a row.
    """
    rows, columns = values.shape
    groups = values.reshape(rows, columns // INT4_GROUP, INT4_GROUP)
    scale = absmax_scale(groups, 2, 7)
    codes = (np.rint(groups / scale) + 8).astype(np.uint8).reshape(rows, columns)
    return codes[:, ::2] | codes[:, 1::2] << 4, scale.reshape(rows, -1)


def int4_gptq(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same codes as GPTQ has them: I32 of inputs / 8 x outputs, eight inputs in a number."""
    packed, scale = int4_grouped(values)
    inputs = packed.reshape(len(packed), -1, 4).view("<i4")[:, :, 0]
    return np.ascontiguousarray(inputs.T), np.ascontiguousarray(scale.T)


# --- synthetic tensors


def random_words(n: int, seed: int) -> np.ndarray:
    """n random 64-bit words of PCG64, whose stream numpy promises to keep."""
    return np.random.PCG64(seed).random_raw(n)


def gaussian(dtype: type, seed: int) -> np.ndarray:
    """A matrix of about N(0, 0.02): sums of 12 uniform numbers, in integers until the last step."""
    n = SYNTHETIC_ELEMENTS[0] * SYNTHETIC_ELEMENTS[1]
    uniform = random_words(6 * n, seed).view(np.uint32).reshape(12, n)
    total = uniform.sum(axis=0, dtype=np.int64) - 6 * ((1 << 32) - 1)
    values = total.astype(np.float32) * np.float32(0.02 / (1 << 32))
    return values.reshape(SYNTHETIC_ELEMENTS).astype(dtype)


SYNTHETIC: dict[str, Callable[[], Arrays]] = {
    "gaussian bf16": lambda: {"weight": gaussian(ml_dtypes.bfloat16, 1)},
    "gaussian fp32": lambda: {"weight": gaussian(np.float32, 2)},
    "constant bf16": lambda: {"weight": np.full(SYNTHETIC_ELEMENTS, 0.02, ml_dtypes.bfloat16)},
    "coordinate grid int8": lambda: {
        "grid": np.add.outer(np.arange(1024) // 8 - 128, np.arange(1024) // 8).astype(np.int8)
    },
    "random bf16": lambda: {
        "weight": random_words(1 << 18, 3).view(ml_dtypes.bfloat16).reshape(1024, 1024)
    },
}
