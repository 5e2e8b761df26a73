// SPDX-License-Identifier: Apache-2.0
//
// Decoding of rans16 with AVX2. Built with ISA flags, so everything here has internal linkage and
// nothing comes from the standard library: see rans16_avx512.cpp.
//
// States are two bytes in two registers, 32 lanes each. AVX2 has no lookup of a byte in 256 but
// vpshufb, one in 16: a slot is looked up sixteen times and the right answer chosen by its upper
// bits, which gives the symbol's index; what belongs to the index takes four lookups or fewer. A
// hardware gather from the scalar decoder's table takes two to three times as long. pdep is not
// used: it is microcode on some processors. Survey, split and encoding are the scalar ones.
#include <immintrin.h>

#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

constexpr uint32_t VECTOR_LANES = 32;

// Eight lanes of a mask. EXPAND.to[mask]: for each lane the place of its byte among the next eight,
// lanes of the mask in turn; a byte with bit 7 set gives zero.
constexpr uint32_t EXPAND_LANES = 8;

struct Expand {
    alignas(8) uint8_t to[256][EXPAND_LANES];
};

constexpr Expand make_expand() {
    Expand expand{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t next = 0;
        for (unsigned lane = 0; lane < EXPAND_LANES; ++lane)
            expand.to[mask][lane] = mask >> lane & 1 ? next++ : 0x80;
    }
    return expand;
}

constexpr Expand EXPAND = make_expand();

INLINE __m256i load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
INLINE __m128i load_8(const void* from) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(from));
}
INLINE void store(void* to, __m256i value) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
INLINE __m256i bytes_of(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
INLINE __m256i pair(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
// a where bit 7 of the byte of `choice` is clear, b where it is set.
INLINE __m256i choose(__m256i a, __m256i b, __m256i choice) {
    return _mm256_blendv_epi8(a, b, choice);
}

// Sixteen bytes of a table, in both halves of a register.
struct alignas(32) Sixteen {
    uint8_t byte[32];
};

// What the decoder looks up, sixteen at a time: the symbol's index by slot, the rest by index.
struct Lookup {
    Sixteen index[SCALE / 16];
    Sixteen frequency[MAX_SYMBOLS / 16];
    Sixteen cum[MAX_SYMBOLS / 16];
    Sixteen high[MAX_SYMBOLS / 16];  // of the value; bit 7, which no value has, marks the escape
    Sixteen low[MAX_SYMBOLS / 16];
};

INLINE void put(Sixteen* table, uint32_t at, uint32_t byte) {
    table[at / 16].byte[at % 16] = static_cast<uint8_t>(byte);
    table[at / 16].byte[at % 16 + 16] = static_cast<uint8_t>(byte);
}

void build_lookup(const FrequencyTable& table, Lookup& lookup) {
    __builtin_memset(&lookup, 0, sizeof lookup);
    uint32_t slot = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        put(lookup.frequency, i, table.frequency[i]);
        put(lookup.cum, i, slot);
        put(lookup.high, i, table.value[i] >> 8 | (i == table.escape ? 0x80 : 0));
        put(lookup.low, i, table.value[i] & 0xFF);
        for (uint32_t n = table.frequency[i]; n > 0; --n) put(lookup.index, slot++, i);
    }
}

INLINE __m256i shuffle(const Sixteen& table, __m256i by) {
    return _mm256_shuffle_epi8(load(table.byte), by);
}

// table[at] with at < 16 n_tables; n_tables is 1, 2 or 4. vpshufb looks at bits 7 and 3..0.
template <uint32_t n_tables>
INLINE __m256i look_up(const Sixteen* table, __m256i at) {
    const __m256i first = shuffle(table[0], at);
    if constexpr (n_tables == 1) {
        return first;
    } else {
        const __m256i bit_4 = _mm256_slli_epi16(at, 3);
        const __m256i low = choose(first, shuffle(table[1], at), bit_4);
        if constexpr (n_tables == 2) return low;
        const __m256i high = choose(shuffle(table[2], at), shuffle(table[3], at), bit_4);
        return choose(low, high, _mm256_slli_epi16(at, 2));
    }
}

// table[at] with at < 128, or 0 where bit 7 is set.
INLINE __m256i look_up_128(const Sixteen* table, __m256i at) {
    const __m256i low = look_up<4>(table, at);
    const __m256i high = look_up<4>(table + 4, at);
    const __m256i result = choose(low, high, _mm256_slli_epi16(at, 1));
    return result;
}

INLINE __m256i look_up_256(const Sixteen* table, __m256i at) {
    return _mm256_or_si256(look_up_128(table, at),
                           look_up_128(table + 8, _mm256_xor_si256(at, bytes_of(0x80))));
}

// The fields of 32 lanes, the first of them a multiple of 32, in the top bits of each byte; the
// bits below are not cleared. Eight lanes are `bits` bytes; each field lies in two of them, and a
// product moves it to the top of a word. Reads at most eight bytes beyond the field.
template <uint32_t bits>
INLINE __m256i spread_32(const uint8_t* from) {
    constexpr auto byte = [](int lane) { return static_cast<char>(lane * int(bits) / 8); };
    constexpr auto factor = [](int lane) {
        return static_cast<short>(1 << (16 - int(bits) - lane * int(bits) % 8));
    };
    const __m256i places = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        byte(0), byte(0) + 1, byte(1), byte(1) + 1, byte(2), byte(2) + 1, byte(3), byte(3) + 1,
        byte(4), byte(4) + 1, byte(5), byte(5) + 1, byte(6), byte(6) + 1, byte(7), byte(7) + 1));
    const __m256i factors = _mm256_broadcastsi128_si256(_mm_setr_epi16(
        factor(0), factor(1), factor(2), factor(3), factor(4), factor(5), factor(6), factor(7)));
    // Packing works within halves, so lanes 0..7 and 16..23 go together.
    const __m256i even = pair(load_8(from), load_8(from + 2 * bits));
    const __m256i odd = pair(load_8(from + bits), load_8(from + 3 * bits));
    const auto top = [&](__m256i eight) {
        return _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(eight, places), factors),
                                 8);
    };
    return _mm256_packus_epi16(top(even), top(odd));
}

// The words of lanes 32 v to 32 v + 31 of group g, whose values are high << 8 | low.
template <Form form>
INLINE void join_32(uint32_t g, uint32_t v, __m256i high, __m256i low, const uint8_t* raw,
                    uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const uint32_t lane = g * GROUP_LANES + VECTOR_LANES * v;
    if constexpr (map.top_field == P8_BYTES) {  // the sign, then bits of the low byte
        const __m256i top = load(raw + lane);
        high = _mm256_or_si256(high, _mm256_and_si256(top, bytes_of(0x80)));
        low = _mm256_or_si256(low, _mm256_and_si256(top, bytes_of(0x7F)));
    } else {
        const __m256i top = spread_32<7>(raw + lane / 8 * 7);
        high = _mm256_or_si256(high, _mm256_and_si256(top, bytes_of(0x80)));
        low = _mm256_or_si256(low, _mm256_and_si256(_mm256_srli_epi16(top, 1), bytes_of(0x3F)));
    }
    raw += map.top_field;
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
                mid = _mm256_and_si256(spread_32<3>(raw + lane / 8 * 3), bytes_of(0xE0));
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

// Put the next escapes of the stream where the bits of `mask` are set.
template <Form form>
__attribute__((noinline)) void put_escapes(const DecodeStream& stream, uint32_t mask,
                                           uint64_t& n_escapes, __m256i& high, __m256i& low) {
    alignas(32) uint8_t highs[VECTOR_LANES];
    alignas(32) uint8_t lows[VECTOR_LANES];
    store(highs, high);
    store(lows, low);
    for (; mask != 0; mask &= mask - 1) {
        const int lane = __builtin_ctz(mask);
        const uint32_t value = escape_value<form>(stream, n_escapes++);
        highs[lane] = static_cast<uint8_t>(value >> 8);
        lows[lane] = static_cast<uint8_t>(value);
    }
    high = load(highs);
    low = load(lows);
}

// The next bytes for the lanes of a mask of 16, zero for the others; they take 16 at most.
INLINE __m128i expand_16(const uint8_t* next, uint32_t mask) {
    const __m128i first = load_8(EXPAND.to[mask & 0xFF]);
    const __m128i second =
        _mm_add_epi8(load_8(EXPAND.to[mask >> 8]),
                     _mm_set1_epi8(static_cast<char>(__builtin_popcount(mask & 0xFF))));
    return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)),
                            _mm_unpacklo_epi64(first, second));
}

struct States {
    alignas(32) uint8_t low[LANES];
    alignas(32) uint8_t high[LANES];
};

template <Form form, uint32_t n_tables>
void decode_stream(const Lookup& lookup, DecodeStream& stream, const uint8_t* raw,
                   const StepTarget& target) {
    constexpr FieldMap map = FIELD_MAPS[form];
    States states;
    for (uint32_t g = 0; g < 2; ++g) {
        const uint8_t* planes = stream.states + g * 2 * GROUP_LANES;
        __builtin_memcpy(states.low + g * GROUP_LANES, planes, GROUP_LANES);
        __builtin_memcpy(states.high + g * GROUP_LANES, planes + GROUP_LANES, GROUP_LANES);
    }
    const __m256i even = _mm256_set1_epi16(0x00FF);

    const uint8_t* from = stream.bytes;
    uint64_t missing_bytes = 0;
    uint64_t n_escapes = 0;
    raw += stream.first_step * step_raw_bytes(map);
    uint64_t row = stream.first_step / target.steps_per_row;
    uint64_t step_in_row = stream.first_step % target.steps_per_row;
    for (uint64_t step = 0; step < stream.n_steps; ++step) {
        // Untrusted: the stream may be too short for its states. A step takes at most LANES bytes,
        // and reads no further than that; where fewer are left it reads a copy with zeros behind
        // them.
        uint8_t last_bytes[LANES];
        const uint64_t n_left = static_cast<uint64_t>(stream.bytes_end - from);
        const uint8_t* next = from;
        if (__builtin_expect(n_left < LANES, 0)) {
            __builtin_memset(last_bytes, 0, sizeof last_bytes);
            __builtin_memcpy(last_bytes, from, n_left);
            next = last_bytes;
        }
        const uint8_t* const step_begin = next;
        uint8_t* to = target.base + row * target.row_stride + step_in_row * LANES * map.unit_bytes;
        for (uint32_t lane = 0; lane < LANES; lane += VECTOR_LANES) {
            const __m256i l = load(states.low + lane);
            const __m256i h = load(states.high + lane);
            const __m256i index = look_up_256(lookup.index, l);
            const __m256i f = look_up<n_tables>(lookup.frequency, index);
            const __m256i bias = _mm256_sub_epi8(l, look_up<n_tables>(lookup.cum, index));
            // f * h + bias <= 65279, for even and odd lanes.
            const __m256i x_even = _mm256_add_epi16(
                _mm256_mullo_epi16(_mm256_and_si256(f, even), _mm256_and_si256(h, even)),
                _mm256_and_si256(bias, even));
            const __m256i x_odd = _mm256_add_epi16(
                _mm256_mullo_epi16(_mm256_srli_epi16(f, 8), _mm256_srli_epi16(h, 8)),
                _mm256_srli_epi16(bias, 8));
            const __m256i x_low =
                _mm256_or_si256(_mm256_and_si256(x_even, even), _mm256_slli_epi16(x_odd, 8));
            const __m256i x_high =
                _mm256_or_si256(_mm256_srli_epi16(x_even, 8), _mm256_andnot_si256(even, x_odd));
            const __m256i due = _mm256_cmpeq_epi8(x_high, _mm256_setzero_si256());
            const uint32_t mask = static_cast<uint32_t>(_mm256_movemask_epi8(due));
            // Lanes before this one took at most `lane` bytes, so 32 more are there.
            const __m256i bytes =
                pair(expand_16(next, mask & 0xFFFF),
                     expand_16(next + __builtin_popcount(mask & 0xFFFF), mask >> 16));
            next += __builtin_popcount(mask);
            store(states.low + lane, _mm256_or_si256(_mm256_andnot_si256(due, x_low), bytes));
            store(states.high + lane, _mm256_or_si256(x_high, _mm256_and_si256(due, x_low)));

            __m256i high = look_up<n_tables>(lookup.high, index);
            __m256i low = look_up<n_tables>(lookup.low, index);
            const uint32_t escapes = static_cast<uint32_t>(_mm256_movemask_epi8(high));
            if (__builtin_expect(escapes != 0, 0))
                put_escapes<form>(stream, escapes, n_escapes, high, low);
            join_32<form>(lane / GROUP_LANES, lane % GROUP_LANES / VECTOR_LANES, high, low, raw,
                          to);
        }
        const uint64_t n_due = static_cast<uint64_t>(next - step_begin);
        const uint64_t n_taken = n_due < n_left ? n_due : n_left;
        from += n_taken;
        missing_bytes += n_due - n_taken;
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
        stream.final_states &= (states.low[lane] | uint32_t(states.high[lane]) << 8) == FINAL_STATE;
}

template <Form form>
void decode_all(const FrequencyTable& table, DecodeStream* streams, uint32_t n_streams,
                const uint8_t* raw, const StepTarget& target) {
    Lookup lookup;
    build_lookup(table, lookup);
    for (uint32_t s = 0; s < n_streams; ++s) {
        if (table.n_symbols <= 16)
            decode_stream<form, 1>(lookup, streams[s], raw, target);
        else if (table.n_symbols <= 32)
            decode_stream<form, 2>(lookup, streams[s], raw, target);
        else
            decode_stream<form, 4>(lookup, streams[s], raw, target);
    }
}

using DecodeAll = void (*)(const FrequencyTable&, DecodeStream*, uint32_t, const uint8_t*,
                           const StepTarget&);
constexpr DecodeAll DECODE_ALL[N_FORMS] = {
    nullptr,
    decode_all<FORM_BF16_E8>,
    decode_all<FORM_BF16_E8M1>,
    decode_all<FORM_FP16_E5M1>,
    decode_all<FORM_FP32_E8>,
    decode_all<FORM_FP32_E8M1>,
    decode_all<FORM_FP32_E8_Z13>,
    decode_all<FORM_FP32_E8M1_Z13>,
    decode_all<FORM_FP32_E8_Z16>,
    decode_all<FORM_FP32_E8M1_Z16>,
};

// Neither `target.streaming` nor `ahead` helps here: this is slower than memory.
void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead&) {
    DECODE_ALL[form](table, streams, n_streams, raw, target);
}

}  // namespace

const Kernels AVX2_KERNELS = {
    "avx2",         crc32_avx2, survey_words_scalar, split_steps_scalar, encode_stream_scalar,
    decode_streams,
};

}  // namespace wcodec
