# SPDX-License-Identifier: Apache-2.0
"""Memory between two pages that nobody may touch: a read or write outside it ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class GuardedMemory:
    """Room for up to `size` bytes; `at_end` and `at_begin` give arrays that touch a guard page."""

    def __init__(self, size: int) -> None:
        self._pages = (size + PAGE - 1) // PAGE * PAGE
        self._map = mmap.mmap(-1, self._pages + 2 * PAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for page in (self._address, self._address + PAGE + self._pages):
            if _libc.mprotect(page, PAGE, PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def _array(self, offset: int, size: int) -> np.ndarray:
        address = self._address + PAGE + offset
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def at_end(self, size: int) -> np.ndarray:
        """The last `size` bytes before the guard page behind. Lives as long as this object."""
        return self._array(self._pages - size, size)

    def at_begin(self, size: int) -> np.ndarray:
        """The first `size` bytes after the guard page in front. Lives as long as this object."""
        return self._array(0, size)
