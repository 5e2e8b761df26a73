# SPDX-License-Identifier: Apache-2.0
"""Single rans32 blocks: encoded with chosen options, taken apart, and decoded by both decoders."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from support.reference import reference_decoder
from support.spatial_blocks import as_bytes, whole

from wcodec.codec import batch
from wcodec.errors import CorruptError


def encode(
    array: np.ndarray,
    low_bits: int = 0,
    *,
    sign_raw: bool = False,
    exponent_bits: int = 0,
    classes: bool = False,
    descriptors: np.ndarray | None = None,
) -> batch.Blocks:
    """Encode a matrix as one block, or as those of the descriptors, with one split."""
    return batch.encode_blocks(
        as_bytes(array),
        array.itemsize,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        family=batch.RANS32,
        form_set=1 << 16 * sign_raw + low_bits,
        rans32=(exponent_bits, classes),
        verify=True,
        threads=1,
    )


def decode(blocks: batch.Blocks, array: np.ndarray, descriptors: np.ndarray | None = None):
    """Decode blocks into an array like this one."""
    out = np.zeros_like(as_bytes(array))
    data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    batch.decode_blocks(
        batch.Blocks(blocks.headers, data),
        batch.RANS32,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        out,
        array.itemsize,
        threads=1,
        layer="w",
    )
    return out.view(array.dtype).reshape(array.shape)


def decode_by_reference(blocks: batch.Blocks, array: np.ndarray) -> bytes:
    """The bytes that the reference decoder makes of one rans32 block."""
    reference = reference_decoder()
    header = blocks.headers[0]
    payload = memoryview(blocks.data.tobytes())[16 : 16 + int(header["payload_bytes"])]
    block = reference.Block(
        b"", int(header["coding"]), int(header["form"]), int(header["n_streams"]), payload, "block"
    )
    return reference.decode_rans32(block, *array.shape, array.itemsize).tobytes()


def refused(payload: bytes, array: np.ndarray, form: int = 0) -> str:
    """What the package says of a payload that both decoders must refuse."""
    blocks = batch.frame_block(batch.RANS32, form, payload)
    try:
        decode_by_reference(blocks, array)
    except reference_decoder().BadFile:
        pass
    else:
        raise AssertionError("the reference decoder accepts it")
    try:
        decode(blocks, array)
    except CorruptError as error:
        return str(error)
    raise AssertionError("the package accepts it")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


@dataclass(frozen=True)
class Payload:
    """The parts of a payload, to be changed one by one."""

    low_bits: int
    zero_bits: int
    n_tables: int
    classes: int
    n_runs: int
    escape: int
    reserved: int
    runs: bytes
    parameters: bytes
    stream: bytes
    escapes: bytes
    raw: bytes
    n_escapes: int
    sizes: tuple[int, int] | None = None  # None: those of the parts

    @staticmethod
    def of(blocks: batch.Blocks, unit_bytes: int) -> Payload:
        payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
        *head, n_parameters, n_stream, n_escapes = struct.unpack_from("<6BH3I", payload)
        at = 20 + 3 * head[4]
        runs, parameters = payload[20:at], payload[at : at + n_parameters]
        at = -(-(at + n_parameters) // 16) * 16
        stream, at = payload[at : at + n_stream], -(-(at + n_stream) // 16) * 16
        size = n_escapes * min(unit_bytes, 2)
        escapes, at = payload[at : at + size], -(-(at + size) // 16) * 16
        return Payload(*head, runs, parameters, stream, escapes, payload[at:], n_escapes)

    def pack(self) -> bytes:
        sizes = self.sizes or (len(self.parameters), len(self.stream))
        head = (self.low_bits, self.zero_bits, self.n_tables, self.classes)
        head += (self.n_runs, self.escape, self.reserved)
        front = struct.pack("<6BH3I", *head, *sizes, self.n_escapes) + self.runs + self.parameters
        return _padded(front) + _padded(self.stream) + _padded(self.escapes) + self.raw

    def with_(self, **changes: object) -> bytes:
        return replace(self, **changes).pack()  # type: ignore[arg-type]
