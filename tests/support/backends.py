# SPDX-License-Identifier: Apache-2.0
"""The backends that are compared with each other."""

from wcodec import _core

# avx2_vpclmul has nothing of its own but the CRC.
BACKENDS = [name for name in _core.backends() if name != "avx2_vpclmul"]
OTHERS = [name for name in BACKENDS if name != "scalar"]
