// SPDX-License-Identifier: Apache-2.0
//
// For files built with ISA flags: constants and last steps for CRC-32 by carry-less multiplication
// (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", 2009),
// computed by the compiler.
//
// Folding replaces 128 bits of the message by a remainder of theirs, `distance` bits further on:
// their first half times x^(distance + 32) and their second half times x^(distance - 32), modulo
// the polynomial. All is reflected: bit 0 is the highest power.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "crc32.hpp"

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

// `held` moved on by the fold's distance, and `next` added.
static inline __m128i fold_on(__m128i held, CrcFold fold, __m128i next) {
    const __m128i multiplier =
        _mm_set_epi64x(static_cast<long long>(fold.second), static_cast<long long>(fold.first));
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(held, multiplier, 0x00),
                                       _mm_clmulepi64_si128(held, multiplier, 0x11)),
                         next);
}

// The CRC of a message of which `rest` has that of all before `data`, the start included.
static inline uint32_t crc32_of_rest(__m128i rest, const uint8_t* data, size_t size) {
    constexpr CrcFold FOLD_128 = crc32_fold(128);
    for (; size >= 16; data += 16, size -= 16)
        rest = fold_on(rest, FOLD_128, _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
    // The register of a CRC starts at ~start: here at 0, the start is in `rest` already.
    uint8_t last[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(last), rest);
    return crc32_scalar(data, size, crc32_scalar(last, sizeof last, ~uint32_t(0)));
}

}  // namespace wcodec
