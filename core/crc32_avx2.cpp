// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 by carry-less multiplication of 128-bit registers (PCLMULQDQ): crc32_avx512.cpp with four
// registers of 16 bytes. Built with ISA flags.
#include <immintrin.h>

#include "crc32.hpp"
#include "crc32_fold_x86.hpp"

namespace wcodec {
namespace {

constexpr size_t TURN_BYTES = 64;

inline __m128i load(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
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
    return crc32_of_rest(rest, data, size);
}

}  // namespace wcodec
