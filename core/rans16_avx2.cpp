// SPDX-License-Identifier: Apache-2.0
//
// Decoding of rans16 with AVX2 and BMI2. Built with ISA flags, so everything here has internal
// linkage and nothing comes from the standard library: see rans16_avx512.cpp.
//
// Eight 32-bit states in a register; the entries of a step are gathered from the scalar decoder's
// table and kept in memory, where the rare escapes are put in, and then joined with the raw fields
// 32 lanes at a time. Survey, split and encoding are the scalar ones.
#include <immintrin.h>

#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

constexpr uint32_t VECTOR_LANES = 8;

// EXPAND.to[mask]: for each lane the place of its byte among the next eight, lanes of the mask in
// turn; a byte with bit 7 set gives zero.
struct Expand {
    alignas(8) uint8_t to[256][VECTOR_LANES];
};

constexpr Expand make_expand() {
    Expand expand{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t next = 0;
        for (unsigned lane = 0; lane < VECTOR_LANES; ++lane)
            expand.to[mask][lane] = mask >> lane & 1 ? next++ : 0x80;
    }
    return expand;
}

constexpr Expand EXPAND = make_expand();

INLINE __m256i load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
INLINE void store(void* to, __m256i value) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
INLINE __m256i bytes_of(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

// Eight lanes of fields of `bits` bits, spread to the set bits of each byte of `places`. Reads
// eight bytes: at most READ_SLACK_BYTES beyond the block.
INLINE long long spread(const uint8_t* from, uint64_t places) {
    uint64_t string;
    __builtin_memcpy(&string, from, sizeof string);
    return static_cast<long long>(_pdep_u64(string, places));
}

// The fields of 32 lanes, the first of them `lane`.
template <uint32_t bits>
INLINE __m256i spread_32(const uint8_t* field, uint32_t lane, uint64_t places) {
    const uint8_t* from = field + lane / 8 * bits;
    return _mm256_set_epi64x(spread(from + 3 * bits, places), spread(from + 2 * bits, places),
                             spread(from + bits, places), spread(from, places));
}

constexpr uint64_t EVERY_BYTE = 0x0101010101010101;

// The words of lanes 32 v to 32 v + 31 of group g.
template <Form form>
INLINE void join_half_group(uint32_t g, uint32_t v, const uint32_t* entries, const uint8_t* raw,
                            uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const uint32_t lane = g * GROUP_LANES + 32 * v;
    entries += lane;
    const __m256i a = _mm256_packus_epi32(_mm256_srli_epi32(load(entries), 16),
                                          _mm256_srli_epi32(load(entries + 8), 16));
    const __m256i b = _mm256_packus_epi32(_mm256_srli_epi32(load(entries + 16), 16),
                                          _mm256_srli_epi32(load(entries + 24), 16));
    const __m256i low_bytes = _mm256_set1_epi16(0x00FF);
    // Packing works within halves: groups of four lanes come as 0 2 4 6, 1 3 5 7.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i high = _mm256_permutevar8x32_epi32(
        _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)), order);
    __m256i low = _mm256_permutevar8x32_epi32(
        _mm256_packus_epi16(_mm256_and_si256(a, low_bytes), _mm256_and_si256(b, low_bytes)), order);

    // The sign in bit 7, mantissa bits where they are in the low byte.
    __m256i top;
    if constexpr (map.top_field == P8_BYTES)
        top = load(raw + lane);
    else
        top = spread_32<7>(raw, lane, 0xBF * EVERY_BYTE);
    raw += map.top_field;
    high = _mm256_or_si256(high, _mm256_and_si256(top, bytes_of(0x80)));
    low = _mm256_or_si256(low, _mm256_and_si256(top, bytes_of(0x7F)));
    if constexpr (map.low_fields == F2_BYTES) {
        // Piece q of 16 lanes has its two bits at 2 q: field bit 1 goes to bit 0 of the high byte,
        // field bit 0 to bit 7 of the low one.
        const __m256i pairs = _mm256_srlv_epi64(
            _mm256_broadcastsi128_si256(
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(raw + g * (F2_BYTES / 2)))),
            v == 0 ? _mm256_setr_epi64x(0, 0, 2, 2) : _mm256_setr_epi64x(4, 4, 6, 6));
        high = _mm256_or_si256(high, _mm256_and_si256(_mm256_srli_epi16(pairs, 1), bytes_of(1)));
        low = _mm256_or_si256(low, _mm256_and_si256(_mm256_slli_epi16(pairs, 7), bytes_of(0x80)));
    }

    const __m256i tops_low = _mm256_unpacklo_epi8(low, high);
    const __m256i tops_high = _mm256_unpackhi_epi8(low, high);
    to += g * GROUP_LANES * map.unit_bytes + 32 * v;
    if constexpr (map.unit_bytes == 2) {
        store(to, tops_low);
        store(to + 64, tops_high);
    } else {
        __m256i bottoms_low = _mm256_setzero_si256();
        __m256i bottoms_high = bottoms_low;
        if constexpr (map.low_fields != 0) {
            __m256i mid, lowest;
            if constexpr (map.low_fields == F3_BYTES) {
                mid = spread_32<3>(raw, lane, 0xE0 * EVERY_BYTE);
                lowest = _mm256_setzero_si256();
            } else {
                mid = load(raw + lane);
                lowest = load(raw + P8_BYTES + lane);
            }
            bottoms_low = _mm256_unpacklo_epi8(lowest, mid);
            bottoms_high = _mm256_unpackhi_epi8(lowest, mid);
        }
        store(to, _mm256_unpacklo_epi16(bottoms_low, tops_low));
        store(to + 64, _mm256_unpackhi_epi16(bottoms_low, tops_low));
        store(to + 128, _mm256_unpacklo_epi16(bottoms_high, tops_high));
        store(to + 192, _mm256_unpackhi_epi16(bottoms_high, tops_high));
    }
}

// The i-th escape of a stream; 0 where a hostile stream asks for more than it has.
template <Form form>
INLINE uint32_t escape_value(const DecodeStream& stream, uint64_t i) {
    constexpr FieldMap map = FIELD_MAPS[form];
    if (i >= stream.n_escapes) return 0;
    const uint32_t head = stream.escapes[i];
    const uint32_t value = map.n_escape_lists == 1
                               ? head << map.escape_shift
                               : head << 8 | stream.escapes[stream.n_escapes + i];
    return value & map.value_mask;
}

template <Form form>
void decode_stream(const DecodeTable& table, DecodeStream& stream, const uint8_t* raw,
                   const StepTarget& target) {
    constexpr FieldMap map = FIELD_MAPS[form];
    alignas(32) uint32_t states[LANES];
    alignas(32) uint32_t entries[LANES];
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        const uint8_t* group = stream.states + lane / GROUP_LANES * 2 * GROUP_LANES;
        states[lane] = group[lane % GROUP_LANES] | uint32_t(group[lane % GROUP_LANES + GROUP_LANES])
                                                       << 8;
    }
    const __m256i byte = _mm256_set1_epi32(0xFF);
    const __m256i state_lower = _mm256_set1_epi32(STATE_LOWER);
    const __m256i eight = _mm256_set1_epi32(8);

    const uint8_t* from = stream.bytes;
    uint64_t missing_bytes = 0;
    uint64_t n_escapes = 0;
    raw += stream.first_step * step_raw_bytes(map);
    uint64_t row = stream.first_step / target.steps_per_row;
    uint64_t step_in_row = stream.first_step % target.steps_per_row;
    for (uint64_t step = 0; step < stream.n_steps; ++step) {
        // Untrusted: the stream may be too short for its states. A step takes at most LANES bytes;
        // where fewer are left it reads a copy with zeros behind them.
        uint8_t last_bytes[LANES];
        const uint64_t n_left = static_cast<uint64_t>(stream.bytes_end - from);
        const uint8_t* next = from;
        if (__builtin_expect(n_left < LANES, 0)) {
            __builtin_memset(last_bytes, 0, sizeof last_bytes);
            __builtin_memcpy(last_bytes, from, n_left);
            next = last_bytes;
        }
        const uint8_t* const step_begin = next;
        __m256i any_entry = _mm256_setzero_si256();
        for (uint32_t lane = 0; lane < LANES; lane += VECTOR_LANES) {
            const __m256i x = load(states + lane);
            const __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table.entry),
                                                         _mm256_and_si256(x, byte), 4);
            // frequency * (x >> 8) + bias <= 65279; both factors are below 2^8.
            const __m256i scaled = _mm256_add_epi32(
                _mm256_madd_epi16(_mm256_and_si256(entry, byte), _mm256_srli_epi32(x, 8)),
                _mm256_and_si256(_mm256_srli_epi32(entry, 8), byte));
            const __m256i due = _mm256_cmpgt_epi32(state_lower, scaled);
            const uint32_t mask =
                static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(due)));
            // Lanes before this one took at most `lane` bytes, so eight more are there.
            const __m128i bytes = _mm_shuffle_epi8(
                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(next)),
                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(EXPAND.to[mask])));
            next += __builtin_popcount(mask);
            store(states + lane,
                  _mm256_or_si256(_mm256_sllv_epi32(scaled, _mm256_and_si256(due, eight)),
                                  _mm256_cvtepu8_epi32(bytes)));
            store(entries + lane, entry);
            any_entry = _mm256_or_si256(any_entry, entry);
        }
        const uint64_t n_due = static_cast<uint64_t>(next - step_begin);
        const uint64_t n_taken = n_due < n_left ? n_due : n_left;
        from += n_taken;
        missing_bytes += n_due - n_taken;

        // Bit 31 of an entry marks an escape: the sign of a float.
        if (__builtin_expect(_mm256_movemask_ps(_mm256_castsi256_ps(any_entry)) != 0, 0)) {
            for (uint32_t lane = 0; lane < LANES; ++lane)
                if (entries[lane] & ENTRY_ESCAPE)
                    entries[lane] = escape_value<form>(stream, n_escapes++) << 16;
        }
        uint8_t* to = target.base + row * target.row_stride + step_in_row * LANES * map.unit_bytes;
        for (uint32_t g = 0; g < 2; ++g)
            for (uint32_t v = 0; v < 2; ++v) join_half_group<form>(g, v, entries, raw, to);
        raw += step_raw_bytes(map);
        if (++step_in_row == target.steps_per_row) {
            step_in_row = 0;
            ++row;
        }
    }

    stream.consumed =
        missing_bytes == 0 && from == stream.bytes_end && n_escapes == stream.n_escapes;
    stream.final_states = true;
    for (uint32_t lane = 0; lane < LANES; ++lane)
        stream.final_states &= states[lane] == FINAL_STATE;
}

using DecodeOne = void (*)(const DecodeTable&, DecodeStream&, const uint8_t*, const StepTarget&);
constexpr DecodeOne DECODE_STREAM[N_FORMS] = {
    nullptr,
    decode_stream<FORM_BF16_E8>,
    decode_stream<FORM_BF16_E8M1>,
    decode_stream<FORM_FP16_E5M1>,
    decode_stream<FORM_FP32_E8>,
    decode_stream<FORM_FP32_E8M1>,
    decode_stream<FORM_FP32_E8_Z13>,
    decode_stream<FORM_FP32_E8M1_Z13>,
    decode_stream<FORM_FP32_E8_Z16>,
    decode_stream<FORM_FP32_E8M1_Z16>,
};

// Neither `target.streaming` nor `ahead` helps here: this is slower than memory.
void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead&) {
    DecodeTable decode;
    build_decode_table(table, decode);
    for (uint32_t s = 0; s < n_streams; ++s) DECODE_STREAM[form](decode, streams[s], raw, target);
}

}  // namespace

const Kernels AVX2_KERNELS = {
    "avx2",         crc32_avx2, survey_words_scalar, split_steps_scalar, encode_stream_scalar,
    decode_streams,
};

}  // namespace wcodec
