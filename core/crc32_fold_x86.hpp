// SPDX-License-Identifier: Apache-2.0
//
// Last steps of CRC-32 by carry-less multiplication on x86-64: for files built with ISA flags.
#pragma once

#include <immintrin.h>

#include "crc32.hpp"
#include "crc32_fold.hpp"

namespace wcodec {

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
