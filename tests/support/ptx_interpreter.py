# SPDX-License-Identifier: Apache-2.0
"""Run a PTX kernel, one warp at a time, in numpy: what stands in for a GPU in the tests.

It knows the instructions that our kernels compile to, and stops at any other. A register is an
array of 32 values of 64 bits. Threads diverge and come together as the PTX ISA has it: a thread
that reaches a `.sync` instruction waits there until all have. Every memory access must lie inside
a given region and be aligned; shared memory starts as 0xA5.
"""

from __future__ import annotations

import re

import numpy as np

THREADS = 32
SHARED_BASE = 0x1000
UNSET = 0xDEADBEEFDEADBEEF
STEP_LIMIT = 10_000_000

Lanes = np.ndarray


class PtxFault(Exception):
    """The kernel did something that a GPU would not allow, or the interpreter does not know."""


def _width(kind: str) -> int:
    return int(kind.lstrip("busf"))


def _masked(value: Lanes, kind: str) -> Lanes:
    return value & np.uint64((1 << _width(kind)) - 1)


def _signed(value: Lanes, kind: str) -> np.ndarray:
    shift = 64 - _width(kind)
    return (value << np.uint64(shift)).astype(np.int64) >> shift


def _same(value: int) -> Lanes:
    return np.full(THREADS, value & (1 << 64) - 1, np.uint64)


def _split(text: str) -> list[str]:
    """Operands at the commas that are not inside braces."""
    return [part.strip() for part in re.split(r",(?![^{]*\})", text) if part.strip()]


class Memory:
    """Global memory: regions of bytes at chosen addresses."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, np.ndarray, bool]] = []

    def add(self, address: int, data: np.ndarray, *, writable: bool = False) -> None:
        self.regions.append((address, data, writable))

    def find(self, address: int, size: int, write: bool) -> np.ndarray:
        for base, data, writable in self.regions:
            if base <= address and address + size <= base + data.size:
                if write and not writable:
                    raise PtxFault(f"store to read-only memory at {address:#x}")
                return data[address - base :][:size]
        raise PtxFault(f"access of {size} bytes at {address:#x}, outside all memory")


class PtxKernel:
    """The code of one entry of a PTX module."""

    def __init__(self, module: str, name: str) -> None:
        body = module[module.index(f".entry {name}(") :]
        body = body[body.index("{") + 1 : body.index("\n}")]
        self.code: list[tuple[str, bool, list[str], list[str]]] = []
        self.labels: dict[str, int] = {}
        self.shared: dict[str, int] = {}
        self.shared_end = SHARED_BASE
        for line in body.splitlines():
            self._add(line.split("//")[0].strip())

    def _add(self, line: str) -> None:
        if found := re.match(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];", line):
            align = int(found[1])
            begin = (self.shared_end + align - 1) // align * align
            self.shared[found[2]] = begin
            self.shared_end = begin + int(found[3])
        elif found := re.match(r"(\$\w+):$", line):
            self.labels[found[1]] = len(self.code)
        elif not line.startswith((".", "{", "}")):
            for part in filter(None, map(str.strip, line.split(";"))):
                found = re.match(r"(?:@(!?)(%p\d+)\s+)?(\S+)\s*(.*)$", part)
                opcode = found[3].split(".")
                self.code.append((found[2] or "", found[1] == "!", opcode, _split(found[4])))


class PtxWarp:
    """32 threads of a kernel, the whole of CTA `cta`."""

    def __init__(self, kernel: PtxKernel, arguments: list[int], memory: Memory, cta: int) -> None:
        self.kernel = kernel
        self.arguments = arguments
        self.memory = memory
        self.registers: dict[str, Lanes] = {
            "%tid.x": np.arange(THREADS, dtype=np.uint64),
            "%ctaid.x": _same(cta),
        }
        self.shared = np.full(kernel.shared_end - SHARED_BASE, 0xA5, np.uint8)

    def run(self) -> int:
        """Run to the end; return the number of instructions that the warp was issued."""
        code = self.kernel.code
        pc = np.zeros(THREADS, np.int64)
        waiting = np.zeros(THREADS, bool)
        for issued in range(STEP_LIMIT):
            ready = ~waiting & (pc < len(code))
            if not ready.any():
                if waiting.any():
                    raise PtxFault("threads wait for threads that have ended")
                return issued
            at = int(pc[ready].min())
            active = ready & (pc == at)
            predicate, negated, opcode, operands = code[at]
            if "sync" in opcode:
                if predicate:
                    raise PtxFault("a predicated .sync instruction")
                waiting |= active
                if not (waiting & (pc == at)).all():
                    continue
                waiting[:] = False
                active = np.ones(THREADS, bool)
            mask = active
            if predicate:
                mask = active & (self._flags(predicate) ^ negated)
            pc[active] = at + 1
            if opcode[0] == "bra":
                pc[mask] = self.kernel.labels[operands[0]]
            elif opcode[0] == "ret":
                pc[mask] = len(code)
            elif mask.any():
                self._execute(opcode, operands, mask)
        raise PtxFault("the kernel does not end")

    # ---- Operands ----

    def _read(self, operand: str, kind: str) -> Lanes:
        if operand.startswith("%"):
            return _masked(self.registers.get(operand, _same(UNSET)), kind)
        if operand in self.kernel.shared:
            return _same(self.kernel.shared[operand])
        return _masked(_same(int(operand, 0)), kind)

    def _flags(self, operand: str) -> np.ndarray:
        if operand.lstrip("-").isdigit():
            return _same(int(operand)).astype(bool)
        return self.registers[operand.lstrip("!")].astype(bool) ^ operand.startswith("!")

    def _write(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        old = self.registers.setdefault(register, _same(UNSET))
        old[mask] = value.astype(np.uint64)[mask]

    # ---- Instructions ----

    def _execute(self, opcode: list[str], operands: list[str], mask: np.ndarray) -> None:
        name, kind = opcode[0], opcode[-1]
        if "sync" in opcode and (self._read(operands[-1], "b32") != 0xFFFFFFFF).any():
            raise PtxFault(f"{'.'.join(opcode)} of a part of the warp")
        if name in ("ld", "st"):
            self._access(opcode, operands, mask)
        elif name == "bar":
            pass
        elif opcode[:2] == ["cp", "async"]:
            if opcode[2] == "cg":  # the others wait for copies that are done here
                self._copy(operands, mask)
        elif name == "shfl":
            self._shuffle(opcode[2], operands, mask)
        elif name == "vote":
            flags = self._flags(operands[1])
            if opcode[2] == "ballot":
                value = sum(1 << i for i in np.flatnonzero(flags).tolist())
            else:
                value = int({"any": flags.any, "all": flags.all}[opcode[2]]())
            self._write(operands[0], _same(value), mask)
        elif name == "setp":
            a, b = (self._read(x, kind) for x in operands[1:3])
            if kind.startswith("s"):
                a, b = _signed(a, kind), _signed(b, kind)
            compare = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
            compare |= {"eq": "equal", "ne": "not_equal"}
            self._write(operands[0], getattr(np, compare[opcode[1]])(a, b), mask)
        elif kind == "pred":
            flags = [self._flags(x) for x in operands[1:]]
            combine = {"mov": np.array, "not": np.invert}
            combine |= {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
            self._write(operands[0], combine[name](*flags), mask)
        elif name == "selp":
            a, b = (self._read(x, kind) for x in operands[1:3])
            self._write(operands[0], np.where(self._flags(operands[3]), a, b), mask)
        elif name == "cvt":
            value = self._read(operands[1], kind)
            if kind.startswith("s"):
                value = _signed(value, kind).astype(np.uint64)
            self._write(operands[0], _masked(value, opcode[-2]), mask)
        else:
            values = [self._read(x, kind) for x in operands[1:]]
            with np.errstate(over="ignore"):
                result = self._compute(opcode, values, mask)
            wide = "wide" in opcode
            self._write(operands[0], result if wide else _masked(result, kind), mask)

    def _compute(self, opcode: list[str], values: list[Lanes], mask: np.ndarray) -> Lanes:
        name, kind = opcode[0], opcode[-1]
        one = np.uint64(1)
        byte = np.uint64(0xFF)
        a, b, c, *_ = [*values, _same(0), _same(0), _same(0)]
        if name in ("mov", "cvta"):
            return a
        if name in ("add", "sub", "and", "or", "xor"):
            ufunc = {"add": "add", "sub": "subtract"}.get(name, f"bitwise_{name}")
            return getattr(np, ufunc)(a, b)
        if name == "not":
            return ~a
        if name == "neg":
            return _same(0) - a
        if kind.startswith("s") and name in ("shr", "min", "max"):
            left, right = _signed(a, kind), _signed(b, kind)
            if name == "shr":
                return (left >> np.minimum(b, np.uint64(63)).astype(np.int64)).astype(np.uint64)
            return (np.minimum if name == "min" else np.maximum)(left, right).astype(np.uint64)
        if name in ("mul", "mad") and (
            opcode[1] == "lo" or opcode[1:] in (["wide", "u32"], ["wide", "u16"])
        ):
            return a * b + c
        if name in ("shl", "shr") and (name == "shl" or not kind.startswith("s")):
            shift = np.minimum(b, np.uint64(63))
            result = a << shift if name == "shl" else a >> shift
            return np.where(b < _width(kind), result, np.uint64(0))
        if name in ("div", "rem", "min", "max") and kind.startswith("u"):
            if name in ("min", "max"):
                return (np.minimum if name == "min" else np.maximum)(a, b)
            if not b[mask].all():
                raise PtxFault("division by zero")
            divisor = np.where(b == 0, one, b)
            return a // divisor if name == "div" else a % divisor
        if name == "popc":
            return np.array([value.bit_count() for value in a.tolist()], np.uint64)
        if opcode[:3] == ["shf", "r", "wrap"]:
            return (b << np.uint64(32) | a) >> (c & np.uint64(31))
        if opcode == ["dp4a", "u32", "u32"]:
            shifts = [np.uint64(8 * i) for i in range(4)]
            return c + sum((a >> s & byte) * (b >> s & byte) for s in shifts)
        if opcode == ["prmt", "b32"]:
            bytes8 = b << np.uint64(32) | a
            result = _same(0)
            for i in range(4):
                selector = c >> np.uint64(4 * i) & np.uint64(15)
                chosen = bytes8 >> np.uint64(8) * (selector & np.uint64(7)) & byte
                sign = np.where(chosen & np.uint64(0x80), byte, np.uint64(0))
                result |= np.where(selector < 8, chosen, sign) << np.uint64(8 * i)
            return result
        if opcode == ["bfi", "b64"]:  # a into b, at a place, so many bits
            field = ((one << values[3]) - one) << c
            return (b & ~field) | (a << c & field)
        if name == "lop3":
            table = values[3]
            result = _same(0)
            for i in range(8):
                x, y, z = (v if i & bit else ~v for v, bit in ((a, 4), (b, 2), (c, 1)))
                result |= np.where(table >> np.uint64(i) & one, x & y & z, np.uint64(0))
            return result
        raise PtxFault(f"unknown instruction {'.'.join(opcode)}")

    def _shuffle(self, mode: str, operands: list[str], mask: np.ndarray) -> None:
        value, by, clamp = (self._read(x, "b32").astype(np.int64) for x in operands[1:4])
        if (clamp >> 8 & 31).any():
            raise PtxFault("a shuffle inside parts of the warp")
        thread = np.arange(THREADS)
        source = {"up": thread - by, "down": thread + by, "idx": by & 31}[mode]
        inside = source >= clamp if mode == "up" else source <= clamp
        result, *flag = operands[0].split("|")
        self._write(result, value[np.where(inside, source, thread)], mask)
        if flag:
            self._write(flag[0], inside, mask)

    def _access(self, opcode: list[str], operands: list[str], mask: np.ndarray) -> None:
        kind = opcode[-1]
        if opcode[:2] == ["ld", "param"]:
            index = int(operands[1].strip("[]").rsplit("_", 1)[1])
            self._write(operands[0], _same(self.arguments[index]), mask)
            return
        is_load = opcode[0] == "ld"
        place, data = (operands[1], operands[0]) if is_load else operands
        found = re.match(r"\[([%$\w]+)(?:\+(-?\d+))?\]$", place)
        with np.errstate(over="ignore"):
            address = self._read(found[1], "b64") + _same(int(found[2] or 0))
        registers = [x.strip() for x in data.strip("{}").split(",")]
        item = _width(kind) // 8
        size = item * len(registers)
        loaded = np.zeros((len(registers), THREADS), np.uint64)
        for thread in np.flatnonzero(mask).tolist():
            memory = self._memory(opcode[1], int(address[thread]), size, not is_load)
            for i, register in enumerate(registers):
                piece = memory[i * item : (i + 1) * item]
                if is_load:
                    loaded[i, thread] = int.from_bytes(piece.tobytes(), "little")
                else:
                    value = int(self._read(register, kind)[thread])
                    piece[:] = np.frombuffer(value.to_bytes(item, "little"), np.uint8)
        if is_load:
            for register, value in zip(registers, loaded, strict=True):
                self._write(register, value, mask)

    def _copy(self, operands: list[str], mask: np.ndarray) -> None:
        to = self._read(operands[0].strip("[]"), "b32")
        source = self._read(operands[1].strip("[]"), "b64")
        size = int(operands[2])
        for thread in np.flatnonzero(mask).tolist():
            copied = self._memory("global", int(source[thread]), size, False)
            self._memory("shared", int(to[thread]), size, True)[:] = copied

    def _memory(self, space: str, address: int, size: int, write: bool) -> np.ndarray:
        if address % size:
            raise PtxFault(f"{space} access of {size} bytes at {address:#x}, not aligned")
        if space == "global":
            return self.memory.find(address, size, write)
        begin = (address & 0xFFFFFFFF) - SHARED_BASE
        if space != "shared" or not 0 <= begin <= self.shared.size - size:
            raise PtxFault(f"{space} access at {address:#x}")
        return self.shared[begin : begin + size]
