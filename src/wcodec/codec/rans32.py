# SPDX-License-Identifier: Apache-2.0
"""What the encoder may use of rans32 (docs/format.md section 16): for each dtype the ways to split
a unit into a code and raw bits.
"""

from wcodec.dtypes import unit_bytes

# Bits of the exponent, and of the mantissa among the highest 16 bits of a unit (8 of a byte).
FLOATS = {
    "F64": (11, 4),
    "F32": (8, 7),
    "BF16": (8, 7),
    "F16": (5, 10),
    "F8_E5M2": (5, 2),
    "F8_E5M2FNUZ": (5, 2),
    "F8_E4M3": (4, 3),
    "F8_E4M3FNUZ": (4, 3),
}
# Beside all of a byte. Of wider integers the highest 16 bits say little.
INTEGERS = ("I16", "U16")

MAX_CODED_MANTISSA = 3  # bits; one more gains nothing, and needs symbols that there are not
SIGN_RAW = 16  # bit 16 + k of a set: without the lowest k bits, and the sign raw


def splits(dtype: str, thorough: bool) -> int:
    """The set of splits to try, as the core takes it; 0: rans32 is nothing for this dtype."""
    if dtype in FLOATS:
        _, mantissa = FLOATS[dtype]
        coded = range(min(mantissa, MAX_CODED_MANTISSA) + 1)
        lows = sum(1 << (mantissa - bits) for bits in coded)
        return lows << SIGN_RAW | (lows if thorough or unit_bytes(dtype) == 1 else 0)
    if unit_bytes(dtype) == 1:
        return 0b111 if thorough else 1
    if dtype not in INTEGERS:
        return 0
    return sum(1 << low for low in range(0, 9, 1 if thorough else 4))


def exponent_bits(dtype: str) -> int:
    """Bits of the exponent; 0 of an integer."""
    return FLOATS[dtype][0] if dtype in FLOATS else 0
