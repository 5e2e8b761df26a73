# SPDX-License-Identifier: Apache-2.0
"""Blocks decoded as by a GPU: described by the core, then run by the emulated kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from support.emulated_warp import run_copies, run_rans32, run_spatial, run_streams

from wcodec import _core
from wcodec.codec import batch


@dataclass(frozen=True)
class Described:
    """Blocks as the core describes them to a GPU; `refused` are those that it refuses."""

    headers: np.ndarray
    unit_bytes: int
    streams: np.ndarray
    rans32: np.ndarray
    spatial: np.ndarray
    copies: np.ndarray
    parameters: np.ndarray
    refused: np.ndarray

    def run(self) -> np.ndarray:
        """Decode what is not refused; whether each block is accepted."""
        accepted = ~self.refused
        at = {"streams": 0, "rans32": 0, "spatial": 0, "copies": 0}

        def take(name: str, n: int) -> int:
            records = getattr(self, name)
            address = records.ctypes.data + at[name] * records.itemsize
            at[name] += n
            return address

        for i, header in enumerate(self.headers):
            coding, form, n = (int(header[name]) for name in ("coding", "form", "n_streams"))
            status = np.full(n if coding == batch.RANS16 else 1, 0xFFFF, np.uint32)
            if coding == batch.RANS16:
                address = take("streams", n)
                if accepted[i]:
                    run_streams(form, n, address, status.ctypes.data)
            elif coding == batch.RANS32:
                address = take("rans32", 1)
                if accepted[i]:
                    run_rans32(self.unit_bytes, 1, address, status.ctypes.data)
            elif coding == batch.SPATIAL:
                address = take("spatial", 1)
                if accepted[i]:
                    run_spatial(self.unit_bytes, 1, address, status.ctypes.data)
            else:
                address = take("copies", 1)
                status[:] = 0
                if accepted[i]:
                    run_copies(1, 256, address)
            accepted[i] &= not status.any()
        return accepted


def describe(
    data: np.ndarray,
    headers: np.ndarray,
    family: int,
    descriptors: np.ndarray,
    memory: np.ndarray,
    unit_bytes: int,
) -> Described:
    """Describe blocks of `data`, which is at a multiple of 16, for decoding into `memory`."""
    coding = headers["coding"]
    n_streams = int(headers["n_streams"][coding == batch.RANS16].sum())
    is_copied = ~np.isin(coding, (batch.RANS16, batch.RANS32, batch.SPATIAL))
    streams = np.zeros(n_streams, batch.STREAM_DESCRIPTOR)
    rans32 = np.zeros(int((coding == batch.RANS32).sum()), batch.RANS32_DESCRIPTOR)
    spatial = np.zeros(int((coding == batch.SPATIAL).sum()), batch.SPATIAL_DESCRIPTOR)
    copies = np.zeros(int(is_copied.sum()), batch.COPY_DESCRIPTOR)
    parameters = np.empty(int(batch.device_room(headers, descriptors).sum()) + 16, np.uint8)
    parameters = parameters[-parameters.ctypes.data % 16 :]
    _, failures = _core.describe_blocks(
        data,
        headers,
        family,
        descriptors,
        len(memory),
        unit_bytes,
        data.ctypes.data,
        memory.ctypes.data,
        streams,
        rans32,
        spatial,
        copies,
        parameters,
    )
    rans32["parameters"] += np.uint64(parameters.ctypes.data)
    spatial["parameters"] += np.uint64(parameters.ctypes.data)
    refused = np.zeros(len(headers), bool)
    refused[[i for i, _ in failures]] = True
    return Described(headers, unit_bytes, streams, rans32, spatial, copies, parameters, refused)
