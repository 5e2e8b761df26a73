// SPDX-License-Identifier: Apache-2.0
//
// Words of rans32 put together with AVX2, 8 at a time. Built with ISA flags, so everything here but
// the entry has internal linkage: see rans16_avx512.cpp.
//
// The raw bits of 8 units are as many bytes as a unit has raw bits. The first four units are taken
// from 16 bytes, the others from 16 bytes that begin half as far on: a shuffle brings the four
// bytes that hold a unit's bits into its place, and a shift moves them down.
#include <immintrin.h>

#include "kernels.hpp"

namespace wcodec {
namespace {

constexpr uint32_t UNITS = 8;

inline __m256i all(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
inline __m128i count(uint32_t bits) { return _mm_cvtsi32_si128(static_cast<int>(bits)); }
inline __m128i load_16(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

}  // namespace

size_t join_words_avx2(const WordJoin& join, const uint8_t* symbols, size_t n, const uint8_t* raw,
                       uint8_t* units) {
    const uint32_t half = join.raw_bits * UNITS / 2 / 8;
    alignas(32) uint8_t pick[4 * UNITS];
    alignas(32) uint32_t shift[UNITS];
    for (uint32_t i = 0; i < UNITS; ++i) {
        const uint32_t bit = i * join.raw_bits - (i < UNITS / 2 ? 0 : 8 * half);
        for (uint32_t b = 0; b < 4; ++b) pick[4 * i + b] = static_cast<uint8_t>(bit / 8 + b);
        shift[i] = bit % 8;
    }
    const __m256i picks = _mm256_load_si256(reinterpret_cast<const __m256i*>(pick));
    const __m256i shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift));
    const uint32_t n_low = join.raw_bits - join.sign_raw;
    const __m256i low_mask = all((1u << n_low) - 1);
    const __m256i sign_mask = all(join.sign_raw << (8 * join.unit_bytes - 1));
    const __m128i sign_shift = count(8 * join.unit_bytes - 1 - n_low);
    const __m128i zero_bits = count(join.zero_bits);
    const __m256i code_mask = all(join.code_mask);
    const __m128i code_shift = count(join.code_shift);
    __m256i last_before[MAX_JOINED_RUNS], gap[MAX_JOINED_RUNS];
    for (uint32_t k = 0; k < join.n_runs; ++k) {
        last_before[k] = all(join.first_symbol[k] - 1);
        gap[k] = all(join.gap[k]);
    }
    size_t i = 0;
    for (; i + UNITS <= n; i += UNITS, raw += join.raw_bits) {
        const __m256i symbol =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(symbols + i)));
        __m256i code = symbol;
        for (uint32_t k = 0; k < join.n_runs; ++k)
            code = _mm256_add_epi32(
                code, _mm256_and_si256(_mm256_cmpgt_epi32(symbol, last_before[k]), gap[k]));
        code = _mm256_sll_epi32(_mm256_and_si256(code, code_mask), code_shift);
        const __m256i bytes = _mm256_set_m128i(load_16(raw + half), load_16(raw));
        const __m256i bits = _mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, picks), shifts);
        const __m256i low = _mm256_sll_epi32(_mm256_and_si256(bits, low_mask), zero_bits);
        const __m256i sign = _mm256_and_si256(_mm256_sll_epi32(bits, sign_shift), sign_mask);
        const __m256i unit = _mm256_or_si256(_mm256_or_si256(code, low), sign);
        if (join.unit_bytes == 4) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(units + 4 * i), unit);
        } else {
            const __m256i packed =
                _mm256_permute4x64_epi64(_mm256_packus_epi32(unit, unit), 0b1000);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(units + 2 * i),
                             _mm256_castsi256_si128(packed));
        }
    }
    return i;
}

}  // namespace wcodec
