// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 by carry-less multiplication of 256-bit registers (VPCLMULQDQ without AVX-512):
// crc32_avx512.cpp with four registers of 32 bytes. Built with ISA flags.
#include <immintrin.h>

#include "crc32.hpp"
#include "crc32_fold_x86.hpp"

namespace wcodec {
namespace {

constexpr size_t TURN_BYTES = 128;

inline __m256i load(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline __m256i multiplier(CrcFold fold) {
    return _mm256_set_epi64x(
        static_cast<long long>(fold.second), static_cast<long long>(fold.first),
        static_cast<long long>(fold.second), static_cast<long long>(fold.first));
}

// `held` moved on by the multiplier's distance, and `next` added.
inline __m256i fold_on(__m256i held, __m256i multiplier, __m256i next) {
    return _mm256_xor_si256(_mm256_xor_si256(_mm256_clmulepi64_epi128(held, multiplier, 0x00),
                                             _mm256_clmulepi64_epi128(held, multiplier, 0x11)),
                            next);
}

}  // namespace

uint32_t crc32_avx2_vpclmul(const uint8_t* data, size_t size, uint32_t start) {
    if (size < TURN_BYTES) return crc32_avx2(data, size, start);
    constexpr CrcFold FOLD_128 = crc32_fold(128);

    __m256i held[4];
    for (int i = 0; i < 4; ++i) held[i] = load(data + 32 * i);
    held[0] = _mm256_xor_si256(held[0],
                               _mm256_zextsi128_si256(_mm_cvtsi32_si128(static_cast<int>(~start))));
    data += TURN_BYTES;
    size -= TURN_BYTES;
    const __m256i by_1024 = multiplier(crc32_fold(1024));
    for (; size >= TURN_BYTES; data += TURN_BYTES, size -= TURN_BYTES)
        for (int i = 0; i < 4; ++i) held[i] = fold_on(held[i], by_1024, load(data + 32 * i));

    const __m256i by_256 = multiplier(crc32_fold(256));
    __m256i all = held[0];
    for (int i = 1; i < 4; ++i) all = fold_on(all, by_256, held[i]);
    for (; size >= 32; data += 32, size -= 32) all = fold_on(all, by_256, load(data));
    __m128i rest = fold_on(_mm256_castsi256_si128(all), FOLD_128, _mm256_extracti128_si256(all, 1));
    return crc32_of_rest(rest, data, size);
}

}  // namespace wcodec
