// SPDX-License-Identifier: Apache-2.0
//
// Logarithms in integers: costs are the same on every machine.
#pragma once

#include <array>
#include <cstdint>

namespace wcodec {

// log2(n) in 2^-16, truncated, n > 0: whole part by shifting, then one bit a squaring of the
// mantissa in [1, 2).
static constexpr uint32_t log2_q16(uint32_t n) {
    uint32_t whole = 0;
    while ((n >> whole) > 1) ++whole;
    uint64_t mantissa = (uint64_t(n) << 31) >> whole;  // 1.31 fixed point
    uint32_t fraction = 0;
    for (int bit = 0; bit < 16; ++bit) {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if (mantissa >> 32) {
            fraction |= 1;
            mantissa >>= 1;
        }
    }
    return (whole << 16) | fraction;
}

static constexpr std::array<uint8_t, 256> make_log2_fractions() {
    std::array<uint8_t, 256> fractions{};
    for (uint32_t i = 0; i < 256; ++i)
        fractions[i] = static_cast<uint8_t>(log2_q16(256 + i) >> 8);  // less 8 whole bits
    return fractions;
}
static constexpr std::array<uint8_t, 256> LOG2_FRACTIONS = make_log2_fractions();

// log2(n) in 2^-8, n > 0, from its nine highest bits.
static constexpr uint32_t log2_q8(uint32_t n) {
    const uint32_t whole = 31 - static_cast<uint32_t>(__builtin_clz(n));
    const uint32_t bits = whole >= 8 ? n >> (whole - 8) : n << (8 - whole);
    return whole << 8 | LOG2_FRACTIONS[bits & 255];
}

static constexpr std::array<uint16_t, 2048> make_fine_log2_fractions() {
    std::array<uint16_t, 2048> fractions{};
    for (uint32_t i = 0; i < 2048; ++i)
        fractions[i] = static_cast<uint16_t>((log2_q16(2048 + i) >> 4) - (11 << 12));
    return fractions;
}
static constexpr std::array<uint16_t, 2048> FINE_LOG2_FRACTIONS = make_fine_log2_fractions();

// log2(n) in 2^-12, n > 0, from its twelve highest bits: by less than LOG2_Q12_ERROR too small.
static constexpr uint32_t LOG2_Q12_ERROR = 4;
static constexpr uint32_t log2_q12(uint32_t n) {
    const uint32_t whole = 31 - static_cast<uint32_t>(__builtin_clz(n));
    const uint32_t bits = whole >= 11 ? n >> (whole - 11) : n << (11 - whole);
    return whole << 12 | FINE_LOG2_FRACTIONS[bits & 2047];
}

}  // namespace wcodec
