// SPDX-License-Identifier: Apache-2.0
//
// rans16 with AVX2 and BMI2. Built with ISA flags, so everything here has internal linkage and
// nothing comes from the standard library: see rans16_avx512.cpp.
//
// Decoding works on bytes, 32 lanes in a register, as in rans16_avx512.cpp, and looks everything up
// with shuffles of 16 bytes: gathers are slow on many processors. Encoding does the same, with
// states of 16 bits.
#include <immintrin.h>

#include "crc32.hpp"
#include "encode_index.hpp"
#include "kernels.hpp"
#include "planes.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

INLINE __m256i load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
INLINE __m128i load_16(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
INLINE __m128i load_8(const void* from) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(from));
}
INLINE void store(void* to, __m256i value) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
INLINE void store_16(void* to, __m128i value) {
    _mm_storeu_si128(static_cast<__m128i*>(to), value);
}
INLINE void store_8(void* to, __m128i value) { _mm_storel_epi64(static_cast<__m128i*>(to), value); }
INLINE __m128i low_half(__m256i value) { return _mm256_castsi256_si128(value); }
INLINE __m128i high_half(__m256i value) { return _mm256_extracti128_si256(value, 1); }
INLINE __m256i words_of(int value) { return _mm256_set1_epi16(static_cast<short>(value)); }

INLINE __m256i bytes_of(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
INLINE __m256i two_halves(__m128i low, __m128i high) { return _mm256_set_m128i(high, low); }

// ---- joining ----

// The fields of `bits` <= 7 bits of 8 lanes are `bits` bytes of a bit string. PICK moves the two
// bytes that hold a lane's field into its word, and a multiplication by LIFT brings the field to
// the top of the word. The second half of PICK does it for the 8 lanes after them.
template <unsigned bits>
struct FieldPlaces {
    alignas(16) uint8_t pick[2][16];
    alignas(16) uint16_t lift[8];
};

template <unsigned bits>
constexpr FieldPlaces<bits> make_field_places() {
    FieldPlaces<bits> places{};
    for (unsigned lane = 0; lane < 16; ++lane) {
        const unsigned bit = lane * bits;
        places.pick[lane / 8][lane % 8 * 2] = static_cast<uint8_t>(bit / 8);
        places.pick[lane / 8][lane % 8 * 2 + 1] = static_cast<uint8_t>(bit / 8 + 1);
        places.lift[lane % 8] = static_cast<uint16_t>(1u << (16 - bits - bit % 8));
    }
    return places;
}

template <unsigned bits>
constexpr FieldPlaces<bits> FIELD_PLACES = make_field_places<bits>();

// The same 16 bytes in both halves.
INLINE __m256i twice(const void* from) { return _mm256_broadcastsi128_si256(load_16(from)); }

// The fields of 32 lanes at the tops of words, other bits junk: of lanes 0 to 7 and 16 to 23, then
// of the other ones, as unpacking bytes orders them. Reads less than 16 bytes too many.
struct FieldWords {
    __m256i low;
    __m256i high;
};

template <unsigned bits>
INLINE FieldWords lifted_fields(const uint8_t* from) {
    const __m256i strings = two_halves(load_16(from), load_16(from + 2 * bits));
    const __m256i lift = twice(FIELD_PLACES<bits>.lift);
    return {
        _mm256_mullo_epi16(_mm256_shuffle_epi8(strings, twice(FIELD_PLACES<bits>.pick[0])), lift),
        _mm256_mullo_epi16(_mm256_shuffle_epi8(strings, twice(FIELD_PLACES<bits>.pick[1])), lift)};
}

INLINE __m256i with_f7(__m256i values, __m256i field) {
    const __m256i sign = _mm256_and_si256(field, words_of(0x8000));
    const __m256i rest = _mm256_and_si256(_mm256_srli_epi16(field, 9), words_of(0x3F));
    return _mm256_or_si256(values, _mm256_or_si256(sign, rest));
}

// The raw bits of 32 bytes.
template <Form form>
INLINE __m256i raw_bits_of_bytes(uint32_t g, uint32_t v, const uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    if constexpr (map.top_field == F2_BYTES) {
        const __m256i pairs = _mm256_srlv_epi64(
            twice(raw + g * (F2_BYTES / 2)),
            v == 0 ? _mm256_setr_epi64x(0, 0, 2, 2) : _mm256_setr_epi64x(4, 4, 6, 6));
        return _mm256_and_si256(pairs, bytes_of(3));
    } else {
        constexpr int BITS = map.top_field * 8 / LANES;
        const FieldWords words = lifted_fields<BITS>(raw + (g * GROUP_LANES + 32 * v) / 8 * BITS);
        const __m256i fields = _mm256_packus_epi16(_mm256_srli_epi16(words.low, 16 - BITS),
                                                   _mm256_srli_epi16(words.high, 16 - BITS));
        if constexpr (form != FORM_FP8_T5) return fields;
        const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(fields, bytes_of(4)), 5);
        return _mm256_or_si256(sign, _mm256_and_si256(fields, bytes_of(3)));
    }
}

// The words of lanes 32 v to 32 v + 31 of group g, from the bytes of their values.
template <Form form>
INLINE void join_vector(uint32_t g, uint32_t v, __m256i high, __m256i low, const uint8_t* raw,
                        uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const uint32_t lane = g * GROUP_LANES + 32 * v;
    if constexpr (map.unit_bytes == 1) {
        if constexpr (map.top_field != 0)
            low = _mm256_or_si256(low, raw_bits_of_bytes<form>(g, v, raw));
        store(to + lane, low);
        return;
    }
    const uint8_t* low_fields = raw + map.top_field;
    if constexpr (map.top_field == P8_BYTES) {
        const __m256i top = load(raw + lane);
        high = _mm256_or_si256(high, _mm256_and_si256(top, bytes_of(0x80)));
        low = _mm256_or_si256(low, _mm256_and_si256(top, bytes_of(0x7F)));
    }
    if constexpr (map.low_fields == F2_BYTES) {
        // Piece q of 16 lanes has its two bits at 2 q: field bit 1 goes to bit 0 of the high byte,
        // field bit 0 to bit 7 of the low one.
        const __m256i pairs = _mm256_srlv_epi64(
            twice(low_fields + g * (F2_BYTES / 2)),
            v == 0 ? _mm256_setr_epi64x(0, 0, 2, 2) : _mm256_setr_epi64x(4, 4, 6, 6));
        high = _mm256_or_si256(high, _mm256_and_si256(_mm256_srli_epi16(pairs, 1), bytes_of(1)));
        low = _mm256_or_si256(low, _mm256_and_si256(_mm256_slli_epi16(pairs, 7), bytes_of(0x80)));
    }
    __m256i tops_low = _mm256_unpacklo_epi8(low, high);
    __m256i tops_high = _mm256_unpackhi_epi8(low, high);
    if constexpr (map.top_field == F7_BYTES) {
        const FieldWords fields = lifted_fields<7>(raw + lane / 8 * 7);
        tops_low = with_f7(tops_low, fields.low);
        tops_high = with_f7(tops_high, fields.high);
    }

    to += g * GROUP_LANES * map.unit_bytes + 32 * v;
    if constexpr (map.unit_bytes == 2) {
        store(to, tops_low);
        store(to + 64, tops_high);
    } else {
        __m256i bottoms_low = _mm256_setzero_si256();
        __m256i bottoms_high = bottoms_low;
        if constexpr (map.low_fields == F3_BYTES) {
            const FieldWords fields = lifted_fields<3>(low_fields + lane / 8 * 3);
            bottoms_low = _mm256_and_si256(fields.low, words_of(0xE000));
            bottoms_high = _mm256_and_si256(fields.high, words_of(0xE000));
        }
        if constexpr (map.low_fields == 2 * P8_BYTES) {
            const __m256i mid = load(low_fields + lane);
            const __m256i lowest = load(low_fields + P8_BYTES + lane);
            bottoms_low = _mm256_unpacklo_epi8(lowest, mid);
            bottoms_high = _mm256_unpackhi_epi8(lowest, mid);
        }
        store(to, _mm256_unpacklo_epi16(bottoms_low, tops_low));
        store(to + 64, _mm256_unpackhi_epi16(bottoms_low, tops_low));
        store(to + 128, _mm256_unpacklo_epi16(bottoms_high, tops_high));
        store(to + 192, _mm256_unpackhi_epi16(bottoms_high, tops_high));
    }
}

// ---- decoding ----

// A shuffle looks 16 bytes up, and gives zero where an index has bit 7 set. So a table of 16 n
// bytes is n shuffles of index - 16 p for part p: part p holds what changes (by XOR) from the part
// before it, and those that an index does not reach give zero.
struct alignas(16) Part {
    uint8_t byte[16];
};

template <uint32_t n_parts>
INLINE __m256i look_up(const Part* parts, const __m256i* indices) {
    __m256i found = _mm256_shuffle_epi8(twice(&parts[0]), indices[0]);
    for (uint32_t p = 1; p < n_parts; ++p)
        found = _mm256_xor_si256(found, _mm256_shuffle_epi8(twice(&parts[p]), indices[p]));
    return found;
}

void make_parts(const uint8_t* bytes, uint32_t n_parts, Part* parts) {
    for (uint32_t i = 0; i < 16 * n_parts; ++i)
        parts[i / 16].byte[i % 16] = static_cast<uint8_t>(bytes[i] ^ (i < 16 ? 0 : bytes[i - 16]));
}

// The symbol of a slot is the number of symbols that begin at 1 to slot. Eight slots have a byte:
// which of them begin a symbol; and the number of those before them.
constexpr uint32_t N_EIGHTS = SCALE / 8;

struct DecodeTables {
    Part before[N_EIGHTS / 16];
    Part begins[N_EIGHTS / 16];
    Part frequency[MAX_SYMBOLS / 16];
    Part cum[MAX_SYMBOLS / 16];
    Part value_high[MAX_SYMBOLS / 16];  // bit 7, which no value has, marks the escape
    Part value_low[MAX_SYMBOLS / 16];
};
constexpr uint32_t IS_ESCAPE = 0x80;

// Values of w = 1 are bytes; they stand in value_low.
void build_tables(const FieldMap& map, const FrequencyTable& table, DecodeTables& tables) {
    const bool bytes = map.unit_bytes == 1;
    uint8_t before[N_EIGHTS], begins[N_EIGHTS] = {};
    uint8_t frequency[MAX_SYMBOLS] = {}, cum[MAX_SYMBOLS] = {};
    uint8_t high[MAX_SYMBOLS] = {}, low[MAX_SYMBOLS] = {};
    uint32_t at = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        frequency[i] = table.frequency[i];
        cum[i] = static_cast<uint8_t>(at);
        high[i] = static_cast<uint8_t>((bytes ? 0 : table.value[i] >> 8) |
                                       (i == table.escape ? IS_ESCAPE : 0));
        low[i] = static_cast<uint8_t>(bytes ? table.value[i] >> BYTE_SHIFT : table.value[i]);
        if (i > 0) begins[at / 8] |= static_cast<uint8_t>(1 << at % 8);
        at += table.frequency[i];
    }
    uint8_t n = 0;
    for (uint32_t i = 0; i < N_EIGHTS; ++i) {
        before[i] = n;
        n = static_cast<uint8_t>(n + __builtin_popcount(begins[i]));
    }
    make_parts(before, N_EIGHTS / 16, tables.before);
    make_parts(begins, N_EIGHTS / 16, tables.begins);
    make_parts(frequency, MAX_SYMBOLS / 16, tables.frequency);
    make_parts(cum, MAX_SYMBOLS / 16, tables.cum);
    make_parts(high, MAX_SYMBOLS / 16, tables.value_high);
    make_parts(low, MAX_SYMBOLS / 16, tables.value_low);
}

INLINE __m256i symbols_of(const DecodeTables& tables, __m256i slots) {
    const __m256i low_nibble = bytes_of(0x0F);
    const __m256i eights[2] = {
        _mm256_and_si256(_mm256_srli_epi16(slots, 3), bytes_of(0x1F)),
        _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(slots, 3), bytes_of(0x1F)),
                        bytes_of(16)),
    };
    // Bits 0 to i of a byte, for i = slot % 8.
    const __m256i up_to =
        _mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<long long>(0xFF7F3F1F0F070301)),
                            _mm256_and_si256(slots, bytes_of(0x07)));
    const __m256i begins = _mm256_and_si256(look_up<2>(tables.begins, eights), up_to);
    const __m256i n_ones =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i n = _mm256_add_epi8(
        _mm256_shuffle_epi8(n_ones, _mm256_and_si256(begins, low_nibble)),
        _mm256_shuffle_epi8(n_ones, _mm256_and_si256(_mm256_srli_epi16(begins, 4), low_nibble)));
    return _mm256_add_epi8(n, look_up<2>(tables.before, eights));
}

// EXPAND.to[mask]: for each of eight lanes its place among the next eight bytes, lanes of the mask
// in turn; a byte with bit 7 set gives zero.
struct Expand {
    alignas(8) uint8_t to[256][8];
};

constexpr Expand make_expand() {
    Expand expand{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t next = 0;
        for (unsigned lane = 0; lane < 8; ++lane)
            expand.to[mask][lane] = mask >> lane & 1 ? next++ : 0x80;
    }
    return expand;
}

constexpr Expand EXPAND = make_expand();

INLINE __m128i take_8(const uint8_t*& from, uint32_t mask) {
    const __m128i bytes = _mm_shuffle_epi8(load_8(from), load_8(EXPAND.to[mask]));
    from += __builtin_popcount(mask);
    return bytes;
}

// The next bytes for the lanes of the mask; zero for the others.
INLINE __m256i take_bytes(const uint8_t*& from, uint32_t mask) {
    const __m128i a = take_8(from, mask & 0xFF);
    const __m128i b = take_8(from, mask >> 8 & 0xFF);
    const __m128i c = take_8(from, mask >> 16 & 0xFF);
    const __m128i d = take_8(from, mask >> 24);
    return two_halves(_mm_unpacklo_epi64(a, b), _mm_unpacklo_epi64(c, d));
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

// The values of 32 lanes, with those of the lanes of `which` taken from the escape lists.
template <Form form>
__attribute__((noinline)) void take_escapes(const DecodeStream& stream, uint32_t which,
                                            uint64_t& n_escapes, __m256i& value_high,
                                            __m256i& value_low) {
    alignas(32) uint8_t high[32], low[32];
    store(high, value_high);
    store(low, value_low);
    for (; which != 0; which &= which - 1) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(which));
        const uint32_t value = escape_value<form>(stream, n_escapes++);
        high[lane] = static_cast<uint8_t>(value >> 8);
        low[lane] =
            static_cast<uint8_t>(FIELD_MAPS[form].unit_bytes == 1 ? value >> BYTE_SHIFT : value);
    }
    value_high = load(high);
    value_low = load(low);
}

// The states of 32 lanes.
struct States {
    __m256i low;
    __m256i high;
};

// Decodes one symbol in each of lanes 32 v to 32 v + 31 of group g and writes their words.
// n_parts: enough for the symbols of the table.
template <Form form, uint32_t n_parts>
INLINE void decode_vector(uint32_t g, uint32_t v, const DecodeTables& tables,
                          const DecodeStream& stream, States& states, const uint8_t*& from,
                          uint64_t& n_escapes, const uint8_t* raw, uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    __m256i symbols[n_parts];
    symbols[0] = symbols_of(tables, states.low);
    for (uint32_t p = 1; p < n_parts; ++p)
        symbols[p] = _mm256_sub_epi8(symbols[0], bytes_of(static_cast<int>(16 * p)));
    const __m256i frequency = look_up<n_parts>(tables.frequency, symbols);
    const __m256i bias = _mm256_sub_epi8(states.low, look_up<n_parts>(tables.cum, symbols));
    __m256i value_high = look_up<n_parts>(tables.value_high, symbols);
    __m256i value_low = _mm256_setzero_si256();  // the values of form 3 have no low byte
    if constexpr (map.unit_bytes == 1 || map.value_mask & 0xFF)
        value_low = look_up<n_parts>(tables.value_low, symbols);
    const uint32_t escapes = static_cast<uint32_t>(_mm256_movemask_epi8(value_high));

    // x = frequency * high + bias <= 65279, for the even and the odd lanes as 16-bit words.
    const __m256i low_bytes = words_of(0x00FF);
    const __m256i even =
        _mm256_add_epi16(_mm256_mullo_epi16(_mm256_and_si256(frequency, low_bytes),
                                            _mm256_and_si256(states.high, low_bytes)),
                         _mm256_and_si256(bias, low_bytes));
    const __m256i odd = _mm256_add_epi16(
        _mm256_mullo_epi16(_mm256_srli_epi16(frequency, 8), _mm256_srli_epi16(states.high, 8)),
        _mm256_srli_epi16(bias, 8));
    const __m256i low =
        _mm256_or_si256(_mm256_and_si256(even, low_bytes), _mm256_slli_epi16(odd, 8));
    const __m256i high =
        _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_andnot_si256(low_bytes, odd));

    const __m256i due = _mm256_cmpeq_epi8(high, _mm256_setzero_si256());
    const uint32_t mask = static_cast<uint32_t>(_mm256_movemask_epi8(due));
    states.high = _mm256_or_si256(high, _mm256_and_si256(due, low));
    states.low = _mm256_or_si256(_mm256_andnot_si256(due, low), take_bytes(from, mask));
    if (__builtin_expect(escapes != 0, 0)) {
        __m256i with_high = value_high, with_low = value_low;  // those others stay in registers
        take_escapes<form>(stream, escapes, n_escapes, with_high, with_low);
        value_high = with_high;
        value_low = with_low;
    }
    join_vector<form>(g, v, value_high, value_low, raw, to);
}

template <Form form, uint32_t n_parts>
void decode_stream(const DecodeTables& tables, DecodeStream& stream, const uint8_t* raw,
                   const StepTarget& target) {
    constexpr FieldMap map = FIELD_MAPS[form];
    States states[LANES / 32];
    for (uint32_t i = 0; i < LANES / 32; ++i) {
        const uint8_t* group = stream.states + i / 2 * 2 * GROUP_LANES + i % 2 * 32;
        states[i] = {load(group), load(group + GROUP_LANES)};
    }

    const uint8_t* from = stream.bytes;
    uint64_t missing_bytes = 0;
    uint64_t n_escapes = 0;
    raw += stream.first_step * step_raw_bytes(map);
    uint64_t row = stream.first_step / target.steps_per_row;
    uint64_t step_in_row = stream.first_step % target.steps_per_row;
    for (uint64_t step = 0; step < stream.n_steps; ++step) {
        // Untrusted: the stream may be too short for its states. A step takes at most LANES bytes,
        // and eight lanes look at the next eight; where fewer are left it reads a copy with zeros
        // behind them.
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
#pragma GCC unroll 4
        for (uint32_t i = 0; i < LANES / 32; ++i)
            decode_vector<form, n_parts>(i / 2, i % 2, tables, stream, states[i], next, n_escapes,
                                         raw, to);
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
    __m256i final = bytes_of(-1);
    for (const States& state : states) {
        final = _mm256_and_si256(final, _mm256_cmpeq_epi8(state.low, bytes_of(FINAL_STATE & 0xFF)));
        final = _mm256_and_si256(final, _mm256_cmpeq_epi8(state.high, bytes_of(FINAL_STATE >> 8)));
    }
    stream.final_states = _mm256_movemask_epi8(final) == -1;
}

using DecodeOne = void (*)(const DecodeTables&, DecodeStream&, const uint8_t*, const StepTarget&);
template <uint32_t n_parts>
constexpr DecodeOne DECODE_STREAM[N_FORMS] = {
    nullptr,
    decode_stream<FORM_BF16_E8, n_parts>,
    decode_stream<FORM_BF16_E8M1, n_parts>,
    decode_stream<FORM_FP16_E5M1, n_parts>,
    decode_stream<FORM_FP32_E8, n_parts>,
    decode_stream<FORM_FP32_E8M1, n_parts>,
    decode_stream<FORM_FP32_E8_Z13, n_parts>,
    decode_stream<FORM_FP32_E8M1_Z13, n_parts>,
    decode_stream<FORM_FP32_E8_Z16, n_parts>,
    decode_stream<FORM_FP32_E8M1_Z16, n_parts>,
    decode_stream<FORM_INT8_T4, n_parts>,
    decode_stream<FORM_INT8_T5, n_parts>,
    decode_stream<FORM_INT8_T6, n_parts>,
    decode_stream<FORM_INT8_T8, n_parts>,
    decode_stream<FORM_FP8_T5, n_parts>,
};

// Neither `target.streaming` nor `ahead` helps here: this is slower than memory.
void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead&) {
    DecodeTables tables;
    build_tables(FIELD_MAPS[form], table, tables);
    const DecodeOne decode =
        table.n_symbols <= 32 ? DECODE_STREAM<2>[form] : DECODE_STREAM<4>[form];
    for (uint32_t s = 0; s < n_streams; ++s) decode(tables, streams[s], raw, target);
}

// ---- survey ----

// Nearly all words of a tensor have one of some 30 neighbouring codes. Those are counted by
// comparing 32 codes at once with each of them, the others one by one.
constexpr uint32_t WINDOW_CODES = 40;
constexpr uint32_t CODES_TOGETHER = 8;
constexpr uint32_t VECTORS_TOGETHER = 255;  // counts are bytes
constexpr size_t SAMPLE_WORDS = 1024;
constexpr uint32_t MAX_OUTSIDE = 32;  // of the sample: more take longer than counting all singly

struct CodeWindow {
    uint32_t first;
    uint32_t size;  // a multiple of CODES_TOGETHER; 0: none holds enough
};

// The window that holds most of the sample's codes.
CodeWindow choose_window(const uint32_t* counts, uint32_t n_sample) {
    uint32_t inside = 0;
    for (uint32_t code = 0; code < WINDOW_CODES; ++code) inside += counts[code];
    uint32_t most = inside;
    CodeWindow window{0, WINDOW_CODES};
    for (uint32_t first = 1; first + WINDOW_CODES <= N_CODES; ++first) {
        inside += counts[first + WINDOW_CODES - 1] - counts[first - 1];
        if (inside <= most) continue;
        most = inside;
        window.first = first;
    }
    if (n_sample - most > MAX_OUTSIDE) return {0, 0};
    while (counts[window.first + window.size - 1] == 0) --window.size;
    while (counts[window.first] == 0) {
        ++window.first;
        --window.size;
    }
    window.size = (window.size + CODES_TOGETHER - 1) / CODES_TOGETHER * CODES_TOGETHER;
    return window;
}

// What is counted: the bits of codes that forms look at.
struct CodeBits {
    uint32_t shift;  // of those below them
    uint32_t mask;   // after that
};

template <typename Word>
INLINE uint32_t code_of(const uint8_t* words, size_t i, CodeBits bits) {
    Word word;
    __builtin_memcpy(&word, words + i * sizeof(Word), sizeof(Word));
    return word >> (8 * sizeof(Word) - 16 + CODE_SHIFT + bits.shift) & bits.mask;
}

// Which of 32 words becomes a byte: packing keeps pieces of 16 / w words together, and the halves
// of a register apart.
INLINE uint32_t word_of_byte(uint32_t byte, uint32_t w) {
    const uint32_t piece_words = 16 / w;
    return (2 * (byte % 16 / piece_words) + byte / 16) * piece_words + byte % piece_words;
}

// The codes of 16 words, as packing orders them; adds the words to `any`.
template <typename Word>
INLINE __m256i codes_of(const uint8_t* words, CodeBits bits, __m256i& any) {
    const auto take = [&](size_t at) {
        const __m256i part = load(words + at);
        any = _mm256_or_si256(any, part);
        return part;
    };
    __m256i tops;
    if constexpr (sizeof(Word) == 2)
        tops = take(0);
    else
        tops = _mm256_packus_epi32(_mm256_srli_epi32(take(0), 16), _mm256_srli_epi32(take(32), 16));
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(CODE_SHIFT + bits.shift));
    return _mm256_and_si256(_mm256_srl_epi16(tops, shift), words_of(static_cast<int>(bits.mask)));
}

// Counts how often each of CODES_TOGETHER numbers from `first` on is among the bytes of the
// vectors.
void count_bytes(const uint8_t* bytes, uint32_t n_vectors, uint32_t first, uint32_t* counts) {
    __m256i number[CODES_TOGETHER], n[CODES_TOGETHER];
    for (uint32_t k = 0; k < CODES_TOGETHER; ++k) {
        number[k] = bytes_of(static_cast<int>(first + k));
        n[k] = _mm256_setzero_si256();
    }
#pragma GCC unroll 4
    for (uint32_t v = 0; v < n_vectors; ++v) {
        const __m256i vector = load(bytes + 32 * v);
        for (uint32_t k = 0; k < CODES_TOGETHER; ++k)
            n[k] = _mm256_sub_epi8(n[k], _mm256_cmpeq_epi8(vector, number[k]));
    }
    for (uint32_t k = 0; k < CODES_TOGETHER; ++k) {
        alignas(32) uint64_t sums[4];
        store(sums, _mm256_sad_epu8(n[k], _mm256_setzero_si256()));
        counts[first + k] += static_cast<uint32_t>(sums[0] + sums[1] + sums[2] + sums[3]);
    }
}

template <typename Word>
bool survey(const uint8_t* words, size_t n, CodeBits bits, Survey& survey) {
    uint32_t* const counts = survey.counts;
    __builtin_memset(counts, 0, sizeof survey.counts);
    if (n < SAMPLE_WORDS) return false;
    for (size_t i = 0; i < SAMPLE_WORDS; ++i) ++counts[code_of<Word>(words, i, bits)];
    const CodeWindow window = choose_window(counts, SAMPLE_WORDS);
    if (window.size == 0) return false;

    __builtin_memset(counts, 0, sizeof survey.counts);
    uint32_t inside[WINDOW_CODES] = {};
    const __m256i window_first = words_of(static_cast<int>(window.first));
    const __m256i outside = bytes_of(static_cast<int>(window.size));
    __m256i any = _mm256_setzero_si256();
    alignas(32) uint8_t places[32 * VECTORS_TOGETHER];  // in the window
    size_t i = 0;
    while (n - i >= 32) {
        const size_t n_left = (n - i) / 32;
        const uint32_t n_vectors =
            n_left < VECTORS_TOGETHER ? static_cast<uint32_t>(n_left) : VECTORS_TOGETHER;
        for (uint32_t v = 0; v < n_vectors; ++v, i += 32) {
            const uint8_t* at = words + i * sizeof(Word);
            // Codes before the window wrap around, so beyond it they are all 255.
            const auto place = [&](const uint8_t* from) {
                return _mm256_min_epu16(
                    _mm256_sub_epi16(codes_of<Word>(from, bits, any), window_first), words_of(255));
            };
            const __m256i place_of = _mm256_packus_epi16(place(at), place(at + 16 * sizeof(Word)));
            store(places + 32 * v, place_of);
            const __m256i is_outside =
                _mm256_cmpeq_epi8(_mm256_max_epu8(place_of, outside), place_of);
            uint32_t which = static_cast<uint32_t>(_mm256_movemask_epi8(is_outside));
            for (; which != 0; which &= which - 1) {
                const uint32_t byte = static_cast<uint32_t>(__builtin_ctz(which));
                const size_t j = i + word_of_byte(byte, sizeof(Word));
                ++counts[code_of<Word>(words, j, bits) << bits.shift];
            }
        }
        for (uint32_t place = 0; place < window.size; place += CODES_TOGETHER)
            count_bytes(places, n_vectors, place, inside);
    }
    alignas(32) Word any_word[32 / sizeof(Word)];
    store(any_word, any);
    for (uint32_t k = 1; k < 32 / sizeof(Word); ++k)
        any_word[0] = static_cast<Word>(any_word[0] | any_word[k]);
    for (; i < n; ++i) {
        Word word;
        __builtin_memcpy(&word, words + i * sizeof(Word), sizeof word);
        any_word[0] = static_cast<Word>(any_word[0] | word);
        ++counts[code_of<Word>(words, i, bits) << bits.shift];
    }
    for (uint32_t place = 0; place < window.size && window.first + place <= bits.mask; ++place)
        counts[(window.first + place) << bits.shift] += inside[place];
    survey.any = any_word[0];
    return true;
}

void survey_words(const uint8_t* words, size_t n, uint32_t w, uint32_t code_mask, Survey& result) {
    const uint32_t shift = static_cast<uint32_t>(__builtin_ctz(code_mask));
    const CodeBits bits{shift, code_mask >> shift};
    const bool done = w == 2   ? survey<uint16_t>(words, n, bits, result)
                      : w == 4 ? survey<uint32_t>(words, n, bits, result)
                               : false;
    if (!done) survey_words_scalar(words, n, w, code_mask, result);
}

// ---- splitting ----

// Lanes are split in vectors of 16: vector v of group g holds lanes 64 g + 16 v and up.
constexpr uint32_t VECTOR_LANES = 16;
constexpr uint32_t GROUP_VECTORS = GROUP_LANES / VECTOR_LANES;

// Fields of `bits` <= 7 bits in the low bits of words, as a bit string of 2 * bits bytes in the
// first bytes of a register. Pairs of fields become dwords, pairs of dwords quadwords of four
// fields, pairs of these strings of eight.
template <unsigned bits>
INLINE __m128i packed_fields(__m256i fields) {
    const __m256i dwords = _mm256_madd_epi16(fields, _mm256_set1_epi32((1 << bits) << 16 | 1));
    const __m256i quads =
        _mm256_and_si256(_mm256_or_si256(dwords, _mm256_srli_epi64(dwords, 32 - 2 * bits)),
                         _mm256_set1_epi64x((1ll << 4 * bits) - 1));
    const __m256i strings =
        _mm256_or_si256(quads, _mm256_slli_epi64(_mm256_unpackhi_epi64(quads, quads), 4 * bits));
    // Each half holds one string of eight fields in its first `bits` bytes.
    return _mm_or_si128(_mm_move_epi64(low_half(strings)),
                        _mm_slli_si128(_mm_move_epi64(high_half(strings)), bits));
}

// The words of vector v of a group: the 16-bit words, or the upper and lower halves of 32-bit ones.
struct Words {
    __m256i tops;
    __m256i bottoms;
};

template <Form form>
INLINE Words load_words(const uint8_t* from, uint32_t v) {
    constexpr FieldMap map = FIELD_MAPS[form];
    Words words{};
    if constexpr (map.unit_bytes == 1) {
        words.tops = _mm256_slli_epi16(_mm256_cvtepu8_epi16(load_16(from + 16 * v)), BYTE_SHIFT);
    } else if constexpr (map.unit_bytes == 2) {
        words.tops = two_halves(load_16(from + 16 * v), load_16(from + 64 + 16 * v));
    } else {
        const __m256i a = two_halves(load_16(from + 16 * v), load_16(from + 128 + 16 * v));
        const __m256i b = two_halves(load_16(from + 64 + 16 * v), load_16(from + 192 + 16 * v));
        words.tops = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
        if constexpr (map.low_fields != 0) {
            const __m256i low_words = _mm256_set1_epi32(0xFFFF);
            words.bottoms =
                _mm256_packus_epi32(_mm256_and_si256(a, low_words), _mm256_and_si256(b, low_words));
        }
    }
    return words;
}

INLINE __m128i bytes_of_words(__m256i words) {  // below 256
    return _mm_packus_epi16(low_half(words), high_half(words));
}

INLINE void store_f3(uint8_t* field, uint32_t lane, __m256i fields) {
    const uint64_t string = static_cast<uint64_t>(_mm_cvtsi128_si64(packed_fields<3>(fields)));
    __builtin_memcpy(field + lane * 3 / 8, &string, 6);
}

// The raw bits of bytes, which are words here, as one field each.
template <Form form>
INLINE __m256i fields_of_bytes(__m256i bytes) {
    if constexpr (form == FORM_FP8_T5)
        return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(bytes, 5), words_of(4)),
                               _mm256_and_si256(bytes, words_of(3)));
    return _mm256_andnot_si256(words_of(FIELD_MAPS[form].value_mask >> BYTE_SHIFT), bytes);
}

// Writes the codes (value >> CODE_SHIFT) and the raw fields of group g.
template <Form form>
INLINE void split_group(uint32_t g, const uint8_t* words, uint16_t* codes, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    words += g * GROUP_LANES * map.unit_bytes;
    __m256i pairs = _mm256_setzero_si256();
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint32_t lane = g * GROUP_LANES + v * VECTOR_LANES;
        const auto [tops, bottoms] = load_words<form>(words, v);
        store(codes + lane,
              _mm256_srli_epi16(_mm256_and_si256(tops, words_of(map.value_mask)), CODE_SHIFT));
        uint8_t* field = raw;
        if constexpr (map.unit_bytes == 1) {
            const __m256i fields = fields_of_bytes<form>(_mm256_srli_epi16(tops, BYTE_SHIFT));
            if constexpr (map.top_field == F2_BYTES)
                pairs = _mm256_or_si256(pairs, _mm256_slli_epi16(fields, static_cast<int>(2 * v)));
            if constexpr (map.top_field == F4_BYTES)
                store_8(field + lane / 2, packed_fields<4>(fields));
            if constexpr (map.top_field == F3_BYTES) store_f3(field, lane, fields);
            continue;
        }
        if constexpr (map.top_field == P8_BYTES) {
            const __m256i sign = _mm256_and_si256(_mm256_srli_epi16(tops, 8), words_of(0x80));
            store_16(field + lane,
                     bytes_of_words(_mm256_or_si256(sign, _mm256_and_si256(tops, words_of(0x7F)))));
        } else {
            const __m256i sign = _mm256_and_si256(_mm256_srli_epi16(tops, 9), words_of(0x40));
            const __m128i packed =
                packed_fields<7>(_mm256_or_si256(sign, _mm256_and_si256(tops, words_of(0x3F))));
            store_8(field + lane * 7 / 8, packed);  // 14 bytes, and none beyond
            store_8(field + lane * 7 / 8 + 6, _mm_srli_si128(packed, 6));
        }
        field += map.top_field;
        if constexpr (map.low_fields == F2_BYTES) {
            const __m256i bits = _mm256_and_si256(_mm256_srli_epi16(tops, 7), words_of(3));
            pairs = _mm256_or_si256(pairs, _mm256_slli_epi16(bits, static_cast<int>(2 * v)));
        }
        if constexpr (map.low_fields == F3_BYTES)
            store_f3(field, lane, _mm256_srli_epi16(bottoms, 13));
        if constexpr (map.low_fields == 2 * P8_BYTES) {
            store_16(field + lane, bytes_of_words(_mm256_srli_epi16(bottoms, 8)));
            store_16(field + P8_BYTES + lane,
                     bytes_of_words(_mm256_and_si256(bottoms, words_of(0xFF))));
        }
    }
    if constexpr (map.low_fields == F2_BYTES)
        store_16(raw + map.top_field + g * (F2_BYTES / 2), bytes_of_words(pairs));
    if constexpr (map.top_field == F2_BYTES)
        store_16(raw + g * (F2_BYTES / 2), bytes_of_words(pairs));
}

template <Form form>
void split_form(const uint8_t* words, size_t n_steps, uint16_t* codes, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    for (; n_steps > 0; --n_steps) {
        for (uint32_t g = 0; g < 2; ++g) split_group<form>(g, words, codes, raw);
        words += LANES * map.unit_bytes;
        codes += LANES;
        raw += step_raw_bytes(map);
    }
}

using SplitForm = void (*)(const uint8_t*, size_t, uint16_t*, uint8_t*);
constexpr SplitForm SPLIT_FORM[N_FORMS] = {
    nullptr,
    split_form<FORM_BF16_E8>,
    split_form<FORM_BF16_E8M1>,
    split_form<FORM_FP16_E5M1>,
    split_form<FORM_FP32_E8>,
    split_form<FORM_FP32_E8M1>,
    split_form<FORM_FP32_E8_Z13>,
    split_form<FORM_FP32_E8M1_Z13>,
    split_form<FORM_FP32_E8_Z16>,
    split_form<FORM_FP32_E8M1_Z16>,
    split_form<FORM_INT8_T4>,
    split_form<FORM_INT8_T5>,
    split_form<FORM_INT8_T6>,
    split_form<FORM_INT8_T8>,
    split_form<FORM_FP8_T5>,
};

void split_steps(Form form, const uint8_t* words, size_t n_steps, uint16_t* values, uint8_t* raw) {
    SPLIT_FORM[form](words, n_steps, values, raw);
}

// ---- encoding ----

constexpr uint32_t ENCODE_LANES = 8;

// COMPRESS.to[mask]: the places of the lanes of the mask, close together at the end.
struct Compress {
    alignas(8) uint8_t to[256][ENCODE_LANES];
};

constexpr Compress make_compress() {
    Compress compress{};
    for (unsigned mask = 0; mask < 256; ++mask) {
        unsigned at = ENCODE_LANES;
        for (unsigned lane = ENCODE_LANES; lane-- > 0;)
            if (mask >> lane & 1) compress.to[mask][--at] = static_cast<uint8_t>(lane);
    }
    return compress;
}

constexpr Compress COMPRESS = make_compress();

// IndexTables in registers.
struct EncodeTables {
    Part frequency[MAX_SYMBOLS / 16];
    Part cum[MAX_SYMBOLS / 16];
    Part inverse_low[MAX_SYMBOLS / 16];
    Part inverse_high[MAX_SYMBOLS / 16];
    Part escape[MAX_SYMBOLS / 16];
};

void build_tables(const FrequencyTable& table, const Indexing& indexing, EncodeTables& tables) {
    const IndexTables bytes = make_index_tables(table, indexing);
    make_parts(bytes.frequency, MAX_SYMBOLS / 16, tables.frequency);
    make_parts(bytes.cum, MAX_SYMBOLS / 16, tables.cum);
    make_parts(bytes.inverse_low, MAX_SYMBOLS / 16, tables.inverse_low);
    make_parts(bytes.inverse_high, MAX_SYMBOLS / 16, tables.inverse_high);
    make_parts(bytes.escape, MAX_SYMBOLS / 16, tables.escape);
}

template <uint32_t n_parts>
INLINE void parts_of(__m256i index, __m256i* indices) {
    for (uint32_t p = 0; p < n_parts; ++p)
        indices[p] = _mm256_sub_epi8(index, bytes_of(static_cast<int>(16 * p)));
}

// Puts indices by distance (bytes) in the place of the codes, and lists the escapes.
template <uint32_t n_parts>
void index_codes(const FieldMap& map, const Indexing& indexing, const EncodeTables& tables,
                 EncodeStream& stream) {
    const uint64_t n_lanes = stream.n_steps * LANES;
    const uint16_t* codes = stream.values;
    uint8_t* indices = reinterpret_cast<uint8_t*>(stream.values);
    const __m256i first = words_of(static_cast<int>(indexing.first));
    const __m256i last = words_of(static_cast<int>(indexing.last));
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(indexing.shift));
    const auto distance = [&](const uint16_t* from) {
        return _mm256_min_epu16(_mm256_srl_epi16(_mm256_sub_epi16(load(from), first), shift), last);
    };
    for (uint64_t i = 0; i < n_lanes; i += 32) {
        const __m256i packed = _mm256_packus_epi16(distance(codes + i), distance(codes + i + 16));
        const __m256i index = _mm256_permute4x64_epi64(packed, 0xD8);
        if (indexing.has_escape) {
            __m256i parts[n_parts];
            parts_of<n_parts>(index, parts);
            uint32_t which =
                static_cast<uint32_t>(_mm256_movemask_epi8(look_up<n_parts>(tables.escape, parts)));
            for (; __builtin_expect(which != 0, 0); which &= which - 1)
                put_escape(map, stream, codes[i + static_cast<uint32_t>(__builtin_ctz(which))]);
        }
        store(indices + i, index);
    }
}

// Codes one symbol in each of 16 lanes. `stays`: where x / f < 256; elsewhere the low byte leaves
// first.
INLINE __m256i encode_words(__m256i x, __m256i frequency, __m256i cum, __m256i inverse,
                            __m256i& stays) {
    const __m256i high = _mm256_srli_epi16(x, 8);
    stays = _mm256_cmpgt_epi16(frequency, high);
    x = _mm256_blendv_epi8(high, x, stays);
    const __m256i estimate = _mm256_mulhi_epu16(x, inverse);
    const __m256i rest = _mm256_sub_epi16(x, _mm256_mullo_epi16(estimate, frequency));
    const __m256i is_right = _mm256_cmpgt_epi16(frequency, rest);
    const __m256i remainder = _mm256_sub_epi16(rest, _mm256_andnot_si256(is_right, frequency));
    const __m256i quotient = _mm256_add_epi16(estimate, _mm256_add_epi16(is_right, words_of(1)));
    return _mm256_add_epi16(_mm256_slli_epi16(quotient, 8), _mm256_add_epi16(remainder, cum));
}

// The bytes of the lanes of the mask, in front of `to`.
INLINE void put_8(uint8_t*& to, __m128i bytes, uint32_t mask) {
    store_8(to - ENCODE_LANES, _mm_shuffle_epi8(bytes, load_8(COMPRESS.to[mask])));
    to -= __builtin_popcount(mask);
}

INLINE void put_bytes(uint8_t*& to, __m256i bytes, uint32_t mask) {
    const __m128i low = low_half(bytes);
    const __m128i high = high_half(bytes);
    put_8(to, _mm_unpackhi_epi64(high, high), mask >> 24);
    put_8(to, high, mask >> 16 & 0xFF);
    put_8(to, _mm_unpackhi_epi64(low, low), mask >> 8 & 0xFF);
    put_8(to, low, mask & 0xFF);
}

// The states of lanes 32 v to 32 v + 31 are words in two registers, of lanes 0 to 7 and 16 to 23 of
// them and of the other ones, as unpacking bytes orders them.
template <uint32_t n_parts>
void encode_indices(const EncodeTables& tables, EncodeStream& stream, Fetcher& fetcher) {
    constexpr uint32_t N_VECTORS = LANES / 32;
    __m256i states[N_VECTORS][2];
    for (auto& state : states) state[0] = state[1] = words_of(FINAL_STATE);
    const uint8_t* indices =
        reinterpret_cast<const uint8_t*>(stream.values) + stream.n_steps * LANES;
    uint8_t* to = stream.bytes_end;
    const __m256i zero = _mm256_setzero_si256();
    const __m256i low_bytes = words_of(0x00FF);
    Fetcher ahead = fetcher;
    for (uint64_t step = stream.n_steps; step > 0; --step) {
        fetch(ahead);
        indices -= LANES;
        for (uint32_t v = N_VECTORS; v-- > 0;) {
            __m256i parts[n_parts];
            parts_of<n_parts>(load(indices + 32 * v), parts);
            const __m256i frequency = look_up<n_parts>(tables.frequency, parts);
            const __m256i cum = look_up<n_parts>(tables.cum, parts);
            const __m256i inverse_low = look_up<n_parts>(tables.inverse_low, parts);
            const __m256i inverse_high = look_up<n_parts>(tables.inverse_high, parts);
            const __m256i x0 = states[v][0];
            const __m256i x1 = states[v][1];
            __m256i stays0, stays1;
            states[v][0] = encode_words(x0, _mm256_unpacklo_epi8(frequency, zero),
                                        _mm256_unpacklo_epi8(cum, zero),
                                        _mm256_unpacklo_epi8(inverse_low, inverse_high), stays0);
            states[v][1] = encode_words(x1, _mm256_unpackhi_epi8(frequency, zero),
                                        _mm256_unpackhi_epi8(cum, zero),
                                        _mm256_unpackhi_epi8(inverse_low, inverse_high), stays1);
            const uint32_t stay =
                static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(stays0, stays1)));
            put_bytes(to,
                      _mm256_packus_epi16(_mm256_and_si256(x0, low_bytes),
                                          _mm256_and_si256(x1, low_bytes)),
                      ~stay);
        }
    }
    fetcher = ahead;
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);
    for (uint32_t v = 0; v < N_VECTORS; ++v) {
        uint8_t* group = stream.states + v / 2 * 2 * GROUP_LANES + v % 2 * 32;
        store(group, _mm256_packus_epi16(_mm256_and_si256(states[v][0], low_bytes),
                                         _mm256_and_si256(states[v][1], low_bytes)));
        store(group + GROUP_LANES, _mm256_packus_epi16(_mm256_srli_epi16(states[v][0], 8),
                                                       _mm256_srli_epi16(states[v][1], 8)));
    }
}

void encode_stream(const FieldMap& map, const FrequencyTable& frequencies, EncodeStream& stream,
                   Fetcher& fetcher) {
    const Indexing indexing = choose_indexing(map, frequencies);
    EncodeTables tables;
    build_tables(frequencies, indexing, tables);
    stream.n_escapes = 0;
    const bool few = indexing.last < 32;
    if (indexing.by_distance)
        (few ? index_codes<2> : index_codes<4>)(map, indexing, tables, stream);
    else
        index_by_symbol(map, indexing, 0, stream);
    (few ? encode_indices<2> : encode_indices<4>)(tables, stream, fetcher);
}

}  // namespace

const Kernels AVX2_KERNELS = {
    "avx2",
    crc32_avx2,
    survey_words,
    split_steps,
    encode_stream,
    decode_streams,
    encode_token_steps_avx2,
    decode_token_steps_avx2,
    join_words_avx2,
};

}  // namespace wcodec
