# SPDX-License-Identifier: Apache-2.0
"""What the CUDA compiler makes of the kernels: registers, spills, and the instructions of the loop
that decodes.

What is counted of rans16. The decoding loop handles a tile of 4 steps (512 units) in an iteration;
per 32 units is a sixteenth of it. Its instructions are the shortest closed path, through the
control flow graph of the machine code, that stores 4 steps by vector stores. On it is all that
every tile executes: table and window, renormalisation, raw fields loaded and joined, stores, and
the loop's own checks and pointers. Not on it, since a tile may pass them by: the refill of the
window (once in about two tiles), the escape path (in steps that have escapes), the fallbacks for
threads that have diverged (BRA.DIV, never taken), and the steps at the ends of rows and streams,
that run one by one.

Of rans32 it is the shortest closed path through the store of a unit: a step of 32 units whose
symbols are found at once, of a block with one table.

Of spatial there are two loops. That of tokens is the shortest closed path through a vote and a
store of a residual into shared memory: 32 units without raw bits. That of the wave is the shortest
one through the store of a group of four units: 128 units, but in their rows' first and last steps.

An instruction that a predicate turns off counts like any other, and each counts as one whatever it
costs. Nothing here was timed.

The counts are pinned in kernel_counts.json for one release of nvcc; with another, only the bounds
are held. To pin anew: PYTHONPATH=tests python tests/gpu/test_compile_gates.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.cuda_toolkit import (
    ALL_KERNELS,
    BLOCK_KERNELS,
    FORM_NAMES,
    RANS16_KERNELS,
    RANS32_KERNELS,
    SPATIAL_KERNELS,
    Instruction,
    architectures,
    cubin,
    disassemble,
    nvcc,
    nvcc_release,
    nvdisasm,
    shortest_cycle,
)
from support.rans16_streams import FIELD_MAPS, step_raw_bytes

PINS = Path(__file__).with_name("kernel_counts.json")
TILE_STEPS = 4
MAX_REGISTERS = 64  # for 32 warps on a multiprocessor
# Shared memory has room for 13 warps of rans32 and 20 of spatial.
MAX_BLOCK_REGISTERS = 96
ASSEMBLED = ("sm_80", "sm_90", "sm_100", "sm_120")
COUNTED = ("sm_80", "sm_90")
MAX_BF16_PER_32_UNITS = 24

needs_nvcc = pytest.mark.skipif(nvcc() is None, reason="no nvcc: not on PATH nor in $CUDA_HOME")
needs_nvdisasm = pytest.mark.skipif(
    nvcc() is None or nvdisasm() is None,
    reason="no nvcc or no nvdisasm: pip install nvidia-cuda-nvdisasm",
)


def decoding_loop(code: list[Instruction], form: int) -> list[Instruction]:
    width = {1: ".E", 2: ".64", 4: ".128"}[FIELD_MAPS[form].unit_bytes]

    def is_store(i: int) -> bool:
        return code[i].opcode.startswith("STG.") and code[i].opcode.endswith(width)

    loops = [shortest_cycle(code, i) for i in range(len(code)) if is_store(i)]
    loops = [path for path in loops if sum(map(is_store, path)) == TILE_STEPS]
    assert loops, "no loop with four vector stores"
    return [code[i] for i in min(loops, key=len)]


def rans32_loop(code: list[Instruction], unit_bytes: int) -> list[Instruction]:
    width = {1: ".U8", 2: ".U16", 4: ".E", 8: ".E"}[unit_bytes]
    stores = [
        i
        for i, found in enumerate(code)
        if found.opcode.startswith("STG.E") and found.opcode.endswith(width)
    ]
    loops = [shortest_cycle(code, i) for i in stores]
    # A symbol is found and its word taken: two votes, whether there are escapes among them.
    loops = [path for path in loops if sum(code[i].opcode.startswith("VOTE") for i in path) >= 2]
    assert loops, "no loop with a store of a unit"
    return [code[i] for i in min(loops, key=len)]


def spatial_loops(code: list[Instruction], unit_bytes: int) -> dict[str, int]:
    """Instructions of the loops of spatial: of 32 tokens, and of 32 groups in the wave."""
    width = {1: ".E", 2: ".64", 4: ".128"}[unit_bytes]

    def shortest(opcode: str, width: str, votes: int, shuffles: int) -> int:
        found = [i for i in range(len(code)) if code[i].opcode.startswith(opcode)]
        loops = [shortest_cycle(code, i) for i in found if code[i].opcode.endswith(width)]

        def count(path: list[int], name: str) -> int:
            return sum(code[i].opcode.startswith(name) for i in path)

        loops = [
            path
            for path in loops
            if path and count(path, "VOTE") >= votes and count(path, "SHFL") == shuffles
        ]
        return min(map(len, loops))

    return {
        "token_instructions": shortest("STS", "", 2, 0),
        "wave_instructions": shortest("STG.E", width, 0, unit_bytes),
    }


def measure(architecture: str) -> dict[str, dict[str, int]]:
    built = cubin(architecture)
    kernels = disassemble(built.path)
    return (
        {
            FORM_NAMES[form]: {
                "loop_instructions": len(decoding_loop(kernels[name], form)),
                "registers": built.resources[name].registers,
            }
            for form, name in RANS16_KERNELS.items()
        }
        | {
            name.removeprefix("wcodec_"): {
                "loop_instructions": len(rans32_loop(kernels[name], unit_bytes)),
                "registers": built.resources[name].registers,
            }
            for unit_bytes, name in RANS32_KERNELS.items()
        }
        | {
            name.removeprefix("wcodec_"): {
                **spatial_loops(kernels[name], unit_bytes),
                "registers": built.resources[name].registers,
            }
            for unit_bytes, name in SPATIAL_KERNELS.items()
        }
    )


@needs_nvcc
@pytest.mark.parametrize("architecture", ASSEMBLED)
def test_registers_and_spills(architecture):
    if architecture not in architectures():
        pytest.skip(f"nvcc {nvcc_release()} does not know {architecture}")
    resources = cubin(architecture).resources
    assert set(resources) == ALL_KERNELS
    for name, used in resources.items():
        assert (used.stack_bytes, used.spill_bytes) == (0, 0), name
        most = MAX_BLOCK_REGISTERS if name in BLOCK_KERNELS else MAX_REGISTERS
        assert used.registers <= most, name


@needs_nvdisasm
@pytest.mark.parametrize("architecture", COUNTED)
def test_decoding_loop(architecture):
    kernels = disassemble(cubin(architecture).path)
    for form, name in RANS16_KERNELS.items():
        opcodes = Counter(i.opcode.split(".")[0] for i in kernels[name])
        assert opcodes["LDL"] == opcodes["STL"] == 0, name  # nothing in local memory

        # The path is a whole tile of 4 steps of 4 lanes a thread, and nothing twice.
        loop = decoding_loop(kernels[name], form)
        opcodes = Counter(i.opcode.split(".")[0] for i in loop)
        lanes = 4 * TILE_STEPS
        raw_loads = len(FIELD_MAPS[form].raw) * TILE_STEPS
        # The assembler puts loads that are never taken before asynchronous copies.
        never = sum(i.opcode == "LDS" and i.predicate == "@!PT" for i in loop)
        assert opcodes["LDS"] - never == lanes + 2 * TILE_STEPS + raw_loads, name
        assert opcodes["IDP"] == 2 * lanes, name
        assert opcodes["POPC"] == lanes, name
        assert opcodes["VOTE"] + opcodes["VOTEU"] == lanes + TILE_STEPS, name
        copies = -(-TILE_STEPS * step_raw_bytes(form) // (32 * 16))
        assert (opcodes["LDGSTS"], opcodes["LDG"], opcodes["STG"]) == (copies, 0, TILE_STEPS), name
        # The loop may be left by a call under a condition.
        assert not any(i.opcode.startswith("CALL") and not i.predicate for i in loop), name

        per_32_units = len(loop) / (4 * TILE_STEPS)
        if FORM_NAMES[form].startswith("bf16"):
            assert per_32_units <= MAX_BF16_PER_32_UNITS, name


@needs_nvdisasm
@pytest.mark.parametrize("architecture", COUNTED)
def test_pinned_counts(architecture):
    pinned = json.loads(PINS.read_text())
    if pinned["nvcc"] != nvcc_release():
        pytest.skip(f"counts are pinned for nvcc {pinned['nvcc']}, this is {nvcc_release()}")
    assert measure(architecture) == pinned[architecture]


if __name__ == "__main__":
    counts = {"nvcc": nvcc_release()} | {name: measure(name) for name in COUNTED}
    PINS.write_text(json.dumps(counts, indent=1) + "\n")
