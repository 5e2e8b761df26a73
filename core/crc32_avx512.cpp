// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 by carry-less multiplication of 512-bit registers (VPCLMULQDQ). Built with ISA flags: see
// rans16_avx512.cpp. Four registers of 64 bytes walk over the message; each turn moves what they
// hold 256 bytes on and adds the next bytes. In the end 16 bytes are left that have the CRC of all
// that was read, and the scalar code does those and the rest.
#include <immintrin.h>

#include "crc32.hpp"
#include "crc32_fold_x86.hpp"

namespace wcodec {
namespace {

constexpr size_t TURN_BYTES = 256;

inline __m512i multiplier(CrcFold fold) {
    return _mm512_set_epi64(static_cast<long long>(fold.second), static_cast<long long>(fold.first),
                            static_cast<long long>(fold.second), static_cast<long long>(fold.first),
                            static_cast<long long>(fold.second), static_cast<long long>(fold.first),
                            static_cast<long long>(fold.second),
                            static_cast<long long>(fold.first));
}

// `held` moved on by the multiplier's distance, and `next` added.
inline __m512i fold_on(__m512i held, __m512i multiplier, __m512i next) {
    constexpr int XOR_OF_THREE = 0x96;
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(held, multiplier, 0x00),
                                     _mm512_clmulepi64_epi128(held, multiplier, 0x11), next,
                                     XOR_OF_THREE);
}

}  // namespace

uint32_t crc32_avx512(const uint8_t* data, size_t size, uint32_t start) {
    if (size < TURN_BYTES) return crc32_scalar(data, size, start);
    constexpr CrcFold FOLD_384 = crc32_fold(384);
    constexpr CrcFold FOLD_256 = crc32_fold(256);
    constexpr CrcFold FOLD_128 = crc32_fold(128);

    __m512i held[4];
    for (int i = 0; i < 4; ++i) held[i] = _mm512_loadu_si512(data + 64 * i);
    held[0] = _mm512_xor_si512(held[0],
                               _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~start))));
    data += TURN_BYTES;
    size -= TURN_BYTES;
    const __m512i by_2048 = multiplier(crc32_fold(2048));
    for (; size >= TURN_BYTES; data += TURN_BYTES, size -= TURN_BYTES)
        for (int i = 0; i < 4; ++i)
            held[i] = fold_on(held[i], by_2048, _mm512_loadu_si512(data + 64 * i));

    const __m512i by_512 = multiplier(crc32_fold(512));
    __m512i all = held[0];
    for (int i = 1; i < 4; ++i) all = fold_on(all, by_512, held[i]);
    for (; size >= 64; data += 64, size -= 64) all = fold_on(all, by_512, _mm512_loadu_si512(data));

    __m128i rest = _mm512_extracti32x4_epi32(all, 3);
    rest = fold_on(_mm512_extracti32x4_epi32(all, 2), FOLD_128, rest);
    rest = fold_on(_mm512_extracti32x4_epi32(all, 1), FOLD_256, rest);
    rest = fold_on(_mm512_castsi512_si128(all), FOLD_384, rest);
    return crc32_of_rest(rest, data, size);
}

}  // namespace wcodec
