// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 by carry-less multiplication of 128-bit registers (PCLMULQDQ): crc32_avx512.cpp with four
// registers of 16 bytes. Built with ISA flags.
#include <immintrin.h>

#include "crc32.hpp"
#include "crc32_fold.hpp"

namespace wcodec {
namespace {

constexpr size_t TURN_BYTES = 64;

inline __m128i load(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

// `held` moved on by the fold's distance, and `next` added.
inline __m128i fold_on(__m128i held, CrcFold fold, __m128i next) {
    const __m128i multiplier =
        _mm_set_epi64x(static_cast<long long>(fold.second), static_cast<long long>(fold.first));
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(held, multiplier, 0x00),
                                       _mm_clmulepi64_si128(held, multiplier, 0x11)),
                         next);
}

}  // namespace

uint32_t crc32_avx2(const uint8_t* data, size_t size, uint32_t start) {
    if (size < TURN_BYTES) return crc32_scalar(data, size, start);
    constexpr CrcFold FOLD_512 = crc32_fold(512);
    constexpr CrcFold FOLD_128 = crc32_fold(128);

    __m128i held[4];
    for (int i = 0; i < 4; ++i) held[i] = load(data + 16 * i);
    held[0] = _mm_xor_si128(held[0], _mm_cvtsi32_si128(static_cast<int>(~start)));
    data += TURN_BYTES;
    size -= TURN_BYTES;
    for (; size >= TURN_BYTES; data += TURN_BYTES, size -= TURN_BYTES)
        for (int i = 0; i < 4; ++i) held[i] = fold_on(held[i], FOLD_512, load(data + 16 * i));
    __m128i rest = held[0];
    for (int i = 1; i < 4; ++i) rest = fold_on(rest, FOLD_128, held[i]);
    for (; size >= 16; data += 16, size -= 16) rest = fold_on(rest, FOLD_128, load(data));

    // The register of a CRC starts at ~start: here at 0, the start is in `rest` already.
    uint8_t last[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(last), rest);
    return crc32_scalar(data, size, crc32_scalar(last, sizeof last, ~uint32_t(0)));
}

}  // namespace wcodec
