// SPDX-License-Identifier: Apache-2.0
//
// For files built with ISA flags: constants for CRC-32 by carry-less multiplication (Gopal et al.,
// "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", 2009), computed by
// the compiler.
//
// Folding replaces 128 bits of the message by a remainder of theirs, `distance` bits further on:
// their first half times x^(distance + 32) and their second half times x^(distance - 32), modulo
// the polynomial. All is reflected: bit 0 is the highest power.
#pragma once

#include <cstdint>

namespace wcodec {

// x^n modulo the polynomial, reflected, times x^-1: the product of two reflected numbers is one
// place short.
static constexpr uint64_t crc32_power(uint32_t n) {
    uint32_t power = 0x80000000u;  // x^0
    for (; n > 0; --n) power = (power >> 1) ^ ((power & 1) ? 0xEDB88320u : 0);
    return uint64_t(power) << 1;
}

// One 128-bit multiplier: `first` for the half that comes first in the message.
struct CrcFold {
    uint64_t first;
    uint64_t second;
};

static constexpr CrcFold crc32_fold(uint32_t distance) {
    return {crc32_power(distance + 32), crc32_power(distance - 32)};
}
static_assert(crc32_fold(128).first == 0x1751997D0 && crc32_fold(128).second == 0x0CCAA009E);

}  // namespace wcodec
