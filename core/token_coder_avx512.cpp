// SPDX-License-Identifier: Apache-2.0
//
// Steps of the coder of tokens with AVX-512: 32 lanes are two registers of 16 states. Built with
// ISA flags, so everything here but the entry has internal linkage: see rans16_avx512.cpp.
#include <immintrin.h>

#include "kernels.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

constexpr uint32_t N_REGISTERS = 2;
constexpr uint32_t REGISTER_LANES = 16;

INLINE __m512i all(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }

// One symbol of 16 lanes; the entries that the states lead to.
INLINE __m512i decode_register(__m512i& x, __m512i first_slot, const uint32_t* slots,
                               const uint8_t*& from) {
    const __m512i slot_mask = all(TOKEN_SCALE - 1);
    const __m512i slot = _mm512_or_si512(_mm512_and_si512(x, slot_mask), first_slot);
    const __m512i entry = _mm512_i32gather_epi32(slot, slots, 4);
    const __m512i frequency = _mm512_add_epi32(_mm512_srli_epi32(entry, 20), all(1));
    const __m512i rest = _mm512_and_si512(_mm512_srli_epi32(entry, 8), slot_mask);
    x = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, TOKEN_SCALE_BITS)),
                         rest);
    const __mmask16 takes = _mm512_cmplt_epu32_mask(x, all(TOKEN_STATE_LOWER));
    const __m512i words =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    x = _mm512_mask_or_epi32(x, takes, _mm512_slli_epi32(x, 16),
                             _mm512_maskz_expand_epi32(takes, words));
    from += 2 * static_cast<uint32_t>(__builtin_popcount(takes));
    return entry;
}

template <bool has_ids>
INLINE const uint8_t* decode_steps(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                   const uint8_t* ids, size_t n_steps, const TokenSlots* tables,
                                   uint8_t* symbols) {
    __m512i x[N_REGISTERS];
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        x[r] = _mm512_loadu_si512(states + r * REGISTER_LANES);
    for (size_t step = 0; step < n_steps && from <= end; ++step) {
        for (uint32_t r = 0; r < N_REGISTERS; ++r, symbols += REGISTER_LANES) {
            __m512i first_slot = _mm512_setzero_si512();
            if (has_ids) {
                first_slot = _mm512_slli_epi32(
                    _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ids))),
                    TOKEN_SCALE_BITS);
                ids += REGISTER_LANES;
            }
            const __m512i entry = decode_register(x[r], first_slot, tables->entry, from);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(symbols), _mm512_cvtepi32_epi8(entry));
        }
    }
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        _mm512_storeu_si512(states + r * REGISTER_LANES, x[r]);
    return from;
}

}  // namespace

const uint8_t* decode_token_steps_avx512(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                         const uint8_t* ids, size_t n_steps,
                                         const TokenSlots* tables, uint8_t* symbols) {
    return ids ? decode_steps<true>(states, from, end, ids, n_steps, tables, symbols)
               : decode_steps<false>(states, from, end, ids, n_steps, tables, symbols);
}

}  // namespace wcodec
