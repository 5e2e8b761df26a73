# SPDX-License-Identifier: Apache-2.0
"""The kernels as the CUDA compiler makes them: PTX for compute_80, as it is shipped, and the
machine code that PTX becomes. Needs nvcc; reading machine code needs nvdisasm as well, which is in
the toolkit and in the PyPI wheel nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.emulated_warp import INCLUDES, KERNELS

FORM_NAMES = {
    1: "bf16_e8",
    2: "bf16_e8m1",
    3: "fp16_e5m1",
    4: "fp32_e8",
    5: "fp32_e8m1",
    6: "fp32_e8_z13",
    7: "fp32_e8m1_z13",
    8: "fp32_e8_z16",
    9: "fp32_e8m1_z16",
    10: "int8_t4",
    11: "int8_t5",
    12: "int8_t6",
    13: "int8_t8",
    14: "fp8_t5",
}
RANS16_KERNELS = {form: f"wcodec_rans16_{name}" for form, name in FORM_NAMES.items()}
RANS32_KERNELS = {unit_bytes: f"wcodec_rans32_w{unit_bytes}" for unit_bytes in (1, 2, 4, 8)}
SPATIAL_KERNELS = {unit_bytes: f"wcodec_spatial_w{unit_bytes}" for unit_bytes in (1, 2, 4)}
BLOCK_KERNELS = {*RANS32_KERNELS.values(), *SPATIAL_KERNELS.values()}
ALL_KERNELS = {*RANS16_KERNELS.values(), *BLOCK_KERNELS, "wcodec_copy_blocks"}


def _find(name: str, more: list[Path]) -> str | None:
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(toolkit) / "bin" for toolkit in toolkits if toolkit] + more
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which(name, path=path)


@functools.cache
def nvcc() -> str | None:
    return _find("nvcc", [])


@functools.cache
def nvdisasm() -> str | None:
    return _find("nvdisasm", sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin")))


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stderr}")
    return result.stdout + result.stderr


def nvcc_release() -> str:
    return re.search(r"release ([\d.]+)", _run([nvcc(), "--version"]))[1]


def architectures() -> list[str]:
    return re.findall(r"sm_\d+$", _run([nvcc(), "--list-gpu-code"]), re.M)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="wcodec-kernels-")


@functools.cache
def kernel_ptx() -> Path:
    target = Path(_folder().name) / "kernels.ptx"
    source = KERNELS / "kernels.cu"
    includes = [f"-I{path}" for path in INCLUDES]
    flags = ["-std=c++20", "-arch=compute_80", "-ptx"]
    _run([nvcc(), *flags, *includes, str(source), "-o", str(target)])
    return target


@dataclass(frozen=True)
class Resources:
    registers: int
    stack_bytes: int
    spill_bytes: int


@dataclass(frozen=True)
class Cubin:
    path: Path
    resources: dict[str, Resources]  # by kernel


@functools.cache
def cubin(architecture: str) -> Cubin:
    """Assemble the PTX for an architecture."""
    target = Path(_folder().name) / f"{architecture}.cubin"
    generate = ["-gencode", f"arch=compute_80,code={architecture}", "-cubin", "-Xptxas", "-v"]
    report = _run([nvcc(), *generate, str(kernel_ptx()), "-o", str(target)])
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
        r" (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    resources = {}
    for name, stack, stores, loads, registers in re.findall(pattern, report, re.S):
        resources[name] = Resources(int(registers), int(stack), int(stores) + int(loads))
    return Cubin(target, resources)


# ---- Machine code --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    predicate: str  # "" or "@P0", "@!UP1" ...
    opcode: str
    operands: str
    target: int | None  # of a branch, as an index


def disassemble(path: Path) -> dict[str, list[Instruction]]:
    """The instructions of each kernel of a cubin."""
    lines: dict[str, list[tuple[str, str, str]]] = {}
    labels: dict[str, int] = {}
    kernel: list[tuple[str, str, str]] = []
    instruction = re.compile(
        r"/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;"
    )
    for line in _run([nvdisasm(), "-c", str(path)]).splitlines():
        if name := re.match(r"\.text\.(\w+):", line):
            kernel = lines.setdefault(name[1], [])
        elif label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(kernel)
        elif found := instruction.search(line):
            kernel.append((found[1] or "", found[2], found[3]))
    kernels = {}
    for name, code in lines.items():
        kernels[name] = []
        for predicate, opcode, operands in code:
            label = re.search(r"\.L_x_\d+", operands) if opcode.startswith("BRA") else None
            target = labels[label[0]] if label else None
            kernels[name].append(Instruction(predicate, opcode, operands, target))
    return kernels


def _successors(code: list[Instruction], i: int) -> list[int]:
    """Where the warp may be after instruction i, as long as its threads stay together."""
    instruction = code[i]
    conditional = bool(instruction.predicate) or "P" in instruction.operands.split("`")[0]
    if instruction.opcode.startswith(("EXIT", "RET")):
        return [i + 1] if conditional else []
    if instruction.target is not None and "DIV" not in instruction.opcode:
        return [instruction.target, i + 1] if conditional else [instruction.target]
    return [i + 1]


def shortest_cycle(code: list[Instruction], start: int) -> list[int]:
    """The shortest way from an instruction back to it, through the branches of its kernel."""
    came_from = {start: -1}
    queue = [start]
    for i in queue:
        for j in _successors(code, i):
            if j == start:
                path = [i]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if j not in came_from and j < len(code):
                came_from[j] = i
                queue.append(j)
    return []
