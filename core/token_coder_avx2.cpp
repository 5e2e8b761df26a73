// SPDX-License-Identifier: Apache-2.0
//
// Steps of the coder of tokens with AVX2: 32 lanes are four registers of 8 states. Built with ISA
// flags, so everything here but the entries have internal linkage: see rans16_avx512.cpp.
#include <immintrin.h>

#include "kernels.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

constexpr uint32_t N_REGISTERS = 4;
constexpr uint32_t REGISTER_LANES = 8;

// Which of the next words goes to each lane that takes one: the lane's rank among them.
struct Ranks {
    alignas(8) uint8_t of[256][REGISTER_LANES];
};

constexpr Ranks make_ranks() {
    Ranks ranks{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t rank = 0;
        for (unsigned lane = 0; lane < REGISTER_LANES; ++lane)
            if (mask >> lane & 1) ranks.of[mask][lane] = rank++;
    }
    return ranks;
}
constexpr Ranks RANKS = make_ranks();

INLINE __m256i widen_bytes(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

// The entries of 8 slots, by single loads: on many processors faster than a gather.
INLINE __m128i look_up(const int* entries, __m128i slots) {
    const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(slots));
    const auto high = static_cast<uint64_t>(_mm_extract_epi64(slots, 1));
    const __m128i first = _mm_cvtsi32_si128(entries[static_cast<uint32_t>(low)]);
    const __m128i third = _mm_cvtsi32_si128(entries[static_cast<uint32_t>(high)]);
    return _mm_unpacklo_epi64(_mm_insert_epi32(first, entries[low >> 32], 1),
                              _mm_insert_epi32(third, entries[high >> 32], 1));
}
INLINE __m256i look_up(const int* entries, __m256i slots) {
    return _mm256_set_m128i(look_up(entries, _mm256_extracti128_si256(slots, 1)),
                            look_up(entries, _mm256_castsi256_si128(slots)));
}

// One symbol of 8 lanes; the entries that the states lead to.
INLINE __m256i decode_register(__m256i& x, __m256i first_slot, const int* entries,
                               const uint8_t*& from) {
    const __m256i slot_mask = _mm256_set1_epi32(static_cast<int>(TOKEN_SCALE - 1));
    const __m256i slot = _mm256_or_si256(_mm256_and_si256(x, slot_mask), first_slot);
    const __m256i entry = look_up(entries, slot);
    const __m256i frequency = _mm256_add_epi32(_mm256_srli_epi32(entry, 20), _mm256_set1_epi32(1));
    const __m256i rest = _mm256_and_si256(_mm256_srli_epi32(entry, 8), slot_mask);
    x = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, TOKEN_SCALE_BITS)),
                         rest);
    const __m256i takes = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    const auto mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(takes)));
    const __m256i words =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    const __m256i longer = _mm256_or_si256(
        _mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, widen_bytes(RANKS.of[mask])));
    x = _mm256_blendv_epi8(x, longer, takes);
    from += 2 * static_cast<uint32_t>(__builtin_popcount(mask));
    return entry;
}

// Which bytes of 8 words to put close together at the end: those of the lanes of a mask.
struct Compress {
    alignas(16) uint8_t from[256][2 * REGISTER_LANES];
};

constexpr Compress make_compress() {
    Compress compress{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        unsigned at = 2 * REGISTER_LANES;
        for (unsigned lane = REGISTER_LANES; lane-- > 0;) {
            if (!(mask >> lane & 1)) continue;
            compress.from[mask][--at] = static_cast<uint8_t>(2 * lane + 1);
            compress.from[mask][--at] = static_cast<uint8_t>(2 * lane);
        }
    }
    return compress;
}
constexpr Compress COMPRESS = make_compress();

// Two entries of 8 bytes.
INLINE __m128i pair_of(const TokenEncoding* entries, uint64_t first, uint64_t second) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(entries + first));
    const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(entries + second));
    return _mm_unpacklo_epi64(low, high);
}

// One symbol of 8 lanes.
INLINE void encode_register(__m256i& x, __m128i entry_numbers, const TokenEncoding* entries,
                            uint8_t*& to) {
    const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(entry_numbers));
    const auto high = static_cast<uint64_t>(_mm_extract_epi64(entry_numbers, 1));
    const auto number = [](uint64_t four, uint32_t i) { return four >> 16 * i & 0xFFFF; };
    const __m256i first = _mm256_set_m128i(pair_of(entries, number(high, 0), number(high, 1)),
                                           pair_of(entries, number(low, 0), number(low, 1)));
    const __m256i second = _mm256_set_m128i(pair_of(entries, number(high, 2), high >> 48),
                                            pair_of(entries, number(low, 2), low >> 48));
    const __m256 low_pairs = _mm256_castsi256_ps(first), high_pairs = _mm256_castsi256_ps(second);
    const __m256i reciprocal =
        _mm256_castps_si256(_mm256_shuffle_ps(low_pairs, high_pairs, 0b10001000));
    const __m256i others =
        _mm256_castps_si256(_mm256_shuffle_ps(low_pairs, high_pairs, 0b11011101));
    const __m256i frequency = _mm256_and_si256(others, _mm256_set1_epi32(0xFFFF));
    const __m256i cumulative = _mm256_srli_epi32(others, 16);

    const __m256i stays =
        _mm256_cmpgt_epi32(frequency, _mm256_srli_epi32(x, 32 - TOKEN_SCALE_BITS));
    const auto gives =
        static_cast<uint32_t>(~_mm256_movemask_ps(_mm256_castsi256_ps(stays)) & 0xFF);
    const __m256i words = _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF));
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    const __m128i from = _mm_load_si128(reinterpret_cast<const __m128i*>(COMPRESS.from[gives]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to) - 1, _mm_shuffle_epi8(packed, from));
    to -= 2 * static_cast<uint32_t>(__builtin_popcount(gives));

    x = _mm256_blendv_epi8(_mm256_srli_epi32(x, 16), x, stays);
    const __m256i even = _mm256_mul_epu32(x, reciprocal);
    const __m256i odd =
        _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(reciprocal, 32));
    const __m256i estimate = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0b10101010);
    const __m256i rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(estimate, frequency));
    const __m256i more = _mm256_andnot_si256(
        _mm256_cmpgt_epi32(frequency, rest),
        _mm256_sub_epi32(_mm256_set1_epi32(static_cast<int>(TOKEN_SCALE)), frequency));
    x = _mm256_add_epi32(
        _mm256_add_epi32(_mm256_slli_epi32(estimate, TOKEN_SCALE_BITS), cumulative),
        _mm256_add_epi32(rest, more));
}

template <bool has_ids>
INLINE uint8_t* encode_steps(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                             size_t n_steps, const TokenEncodings* tables, uint8_t* to) {
    __m256i x[N_REGISTERS];
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        x[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + r * REGISTER_LANES));
    const auto bytes_at = [](const uint8_t* from) {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    };
    for (size_t i = n_steps * TOKEN_LANES; i > 0; i -= TOKEN_LANES) {
        // Unrolled, or the states are kept in memory.
#pragma GCC unroll 4
        for (uint32_t back = 1; back <= N_REGISTERS; ++back) {
            const size_t at = i - back * REGISTER_LANES;
            const __m128i id = has_ids ? bytes_at(ids + at) : _mm_setzero_si128();
            encode_register(x[N_REGISTERS - back], _mm_unpacklo_epi8(bytes_at(symbols + at), id),
                            tables->symbol, to);
        }
    }
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + r * REGISTER_LANES), x[r]);
    return to;
}

// The low bytes of 32 numbers, in order.
INLINE __m256i low_bytes(const __m256i* numbers) {
    const __m256i mask = _mm256_set1_epi32(255);
    const __m256i low =
        _mm256_packus_epi32(_mm256_and_si256(numbers[0], mask), _mm256_and_si256(numbers[1], mask));
    const __m256i high =
        _mm256_packus_epi32(_mm256_and_si256(numbers[2], mask), _mm256_and_si256(numbers[3], mask));
    const __m256i packed = _mm256_packus_epi16(low, high);
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <bool has_ids>
INLINE const uint8_t* decode_steps(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                   const uint8_t* ids, size_t n_steps, const TokenSlots* tables,
                                   uint8_t* symbols) {
    const int* all_entries = reinterpret_cast<const int*>(tables->entry);
    __m256i x[N_REGISTERS];
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        x[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + r * REGISTER_LANES));
    for (size_t step = 0; step < n_steps; ++step, symbols += TOKEN_LANES) {
        __m256i entries[N_REGISTERS];
        // Unrolled, or the states are kept in memory.
#pragma GCC unroll 4
        for (uint32_t r = 0; r < N_REGISTERS; ++r) {
            __m256i first_slot = _mm256_setzero_si256();
            if (has_ids) {
                first_slot = _mm256_slli_epi32(widen_bytes(ids), TOKEN_SCALE_BITS);
                ids += REGISTER_LANES;
            }
            entries[r] = decode_register(x[r], first_slot, all_entries, from);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols), low_bytes(entries));
        if (__builtin_expect(from > end, 0)) break;
    }
    for (uint32_t r = 0; r < N_REGISTERS; ++r)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + r * REGISTER_LANES), x[r]);
    return from;
}

}  // namespace

uint8_t* encode_token_steps_avx2(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                                 size_t n_steps, const TokenEncodings* tables, uint8_t* to) {
    return ids ? encode_steps<true>(states, symbols, ids, n_steps, tables, to)
               : encode_steps<false>(states, symbols, ids, n_steps, tables, to);
}

const uint8_t* decode_token_steps_avx2(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                       const uint8_t* ids, size_t n_steps, const TokenSlots* tables,
                                       uint8_t* symbols) {
    return ids ? decode_steps<true>(states, from, end, ids, n_steps, tables, symbols)
               : decode_steps<false>(states, from, end, ids, n_steps, tables, symbols);
}

}  // namespace wcodec
