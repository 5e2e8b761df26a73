// SPDX-License-Identifier: Apache-2.0
//
// rans16 with AVX2 and BMI2. Built with ISA flags, so everything here has internal linkage and
// nothing comes from the standard library: see rans16_avx512.cpp.
//
// Decoding works on bytes, 32 lanes in a register, as in rans16_avx512.cpp, and looks everything up
// with shuffles of 16 bytes: gathers are slow on many processors. Encoding has more to look up:
// there the table entries of the lanes are fetched by ordinary loads and stored side by side.
#include <immintrin.h>

#include "crc32.hpp"
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
    if (__builtin_expect(escapes != 0, 0))
        take_escapes<form>(stream, escapes, n_escapes, value_high, value_low);
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

// What the encoder looks up by code. x / f = trunc((x + 1/2) * inverse), exactly: (x + 1/2) / f
// keeps 1 / (2 f) >= 1 / 510 away from whole numbers, and what is lost in two roundings and in the
// last bit of the inverse, which marks an escape, is less than 2^-13.
struct EncodeEntry {
    uint8_t gap;  // 256 - f
    uint8_t cum;
    uint16_t limit;    // 256 f - 1: beyond it a byte leaves first
    uint32_t inverse;  // 1 / f as a float
};
static_assert(sizeof(EncodeEntry) == 8);
constexpr uint32_t INVERSE_OF_ESCAPE = 1;

struct EncodeTable {
    EncodeEntry entry[N_CODES];
};

void build_table(const FrequencyTable& table, EncodeTable& encode) {
    EncodeEntry entries[MAX_SYMBOLS];
    uint32_t cum = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        const uint32_t f = table.frequency[i];
        const float inverse = 1.0f / static_cast<float>(f);
        uint32_t bits;
        __builtin_memcpy(&bits, &inverse, sizeof bits);
        bits = (bits & ~INVERSE_OF_ESCAPE) | (i == table.escape ? INVERSE_OF_ESCAPE : 0);
        entries[i] = {static_cast<uint8_t>(256 - f), static_cast<uint8_t>(cum),
                      static_cast<uint16_t>(256 * f - 1), bits};
        cum += f;
    }
    // Codes without a symbol are escapes. Without an escape symbol the caller's table covers all.
    for (EncodeEntry& entry : encode.entry)
        entry = entries[table.escape == NO_ESCAPE ? 0 : table.escape];
    for (uint32_t i = 0; i < table.n_symbols; ++i)
        if (i != table.escape) encode.entry[table.value[i] >> CODE_SHIFT] = entries[i];
}

// Shuffles of dwords work within halves, so of eight entries the second and the third two change
// places.
constexpr uint32_t entry_place(uint32_t lane) {
    return (lane & 1) | (lane & 2) << 1 | (lane & 4) >> 1;
}

void put_escapes(const FieldMap& map, const EncodeTable& table, const uint16_t* codes,
                 const EncodeStream& stream, uint64_t& escapes_begin) {
    for (uint32_t lane = LANES; lane-- > 0;) {
        if (!(table.entry[codes[lane]].inverse & INVERSE_OF_ESCAPE)) continue;
        --escapes_begin;
        const uint32_t value = uint32_t(codes[lane]) << CODE_SHIFT;
        if (map.n_escape_lists == 1) {
            stream.escapes_high[escapes_begin] = static_cast<uint8_t>(value >> map.escape_shift);
        } else {
            stream.escapes_high[escapes_begin] = static_cast<uint8_t>(value >> 8);
            stream.escapes_low[escapes_begin] = static_cast<uint8_t>(value);
        }
    }
}

void encode_stream(const FieldMap& map, const FrequencyTable& frequencies, EncodeStream& stream) {
    EncodeTable table;
    build_table(frequencies, table);
    alignas(32) uint32_t states[LANES];
    alignas(32) EncodeEntry entries[LANES];
    for (uint32_t& state : states) state = FINAL_STATE;
    const uint64_t n_lanes = stream.n_steps * LANES;
    const uint16_t* codes = stream.values + n_lanes;
    uint8_t* to = stream.bytes_end;
    uint64_t escapes_begin = n_lanes;
    const __m256i byte = _mm256_set1_epi32(0xFF);
    const __m256 half = _mm256_set1_ps(0.5f);
    // The low bytes of eight dwords: four in each half.
    const __m256i pick = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12));
    for (uint64_t step = stream.n_steps; step > 0; --step) {
        codes -= LANES;
        for (uint32_t lane = 0; lane < LANES; lane += ENCODE_LANES)
            for (uint32_t i = 0; i < ENCODE_LANES; ++i)
                entries[lane + entry_place(i)] = table.entry[codes[lane + i]];
        __m256i any = _mm256_setzero_si256();
        for (uint32_t lane = LANES; lane > 0;) {
            lane -= ENCODE_LANES;
            const __m256 a = _mm256_castsi256_ps(load(entries + lane));
            const __m256 b = _mm256_castsi256_ps(load(entries + lane + 4));
            const __m256i entry = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
            const __m256 inverse = _mm256_shuffle_ps(a, b, 0xDD);
            any = _mm256_or_si256(any, _mm256_castps_si256(inverse));
            const __m256i old = load(states + lane);

            // Where x / f >= 256 the low byte leaves first.
            const __m256i leaves = _mm256_cmpgt_epi32(old, _mm256_srli_epi32(entry, 16));
            const uint32_t mask =
                static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(leaves)));
            const __m256i low = _mm256_shuffle_epi8(old, pick);
            const __m128i bytes = _mm_unpacklo_epi32(low_half(low), high_half(low));
            store_8(to - ENCODE_LANES, _mm_shuffle_epi8(bytes, load_8(COMPRESS.to[mask])));
            to -= __builtin_popcount(mask);
            const __m256i x =
                _mm256_srlv_epi32(old, _mm256_and_si256(leaves, _mm256_set1_epi32(8)));

            const __m256i quotient = _mm256_cvttps_epi32(
                _mm256_mul_ps(_mm256_add_ps(_mm256_cvtepi32_ps(x), half), inverse));
            // C(s, x) = (x / f) << 8 | (x % f + cum) = x + (x / f) * (256 - f) + cum
            const __m256i gap = _mm256_and_si256(entry, byte);
            const __m256i cum = _mm256_and_si256(_mm256_srli_epi32(entry, 8), byte);
            store(states + lane,
                  _mm256_add_epi32(_mm256_add_epi32(x, cum), _mm256_madd_epi16(quotient, gap)));
        }
        if (__builtin_expect(!_mm256_testz_si256(any, _mm256_set1_epi32(INVERSE_OF_ESCAPE)), 0))
            put_escapes(map, table, codes, stream, escapes_begin);
    }
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);
    stream.n_escapes = n_lanes - escapes_begin;
    __builtin_memmove(stream.escapes_high, stream.escapes_high + escapes_begin, stream.n_escapes);
    if (map.n_escape_lists == 2)
        __builtin_memmove(stream.escapes_low, stream.escapes_low + escapes_begin, stream.n_escapes);
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        uint8_t* group = stream.states + lane / GROUP_LANES * 2 * GROUP_LANES;
        group[lane % GROUP_LANES] = static_cast<uint8_t>(states[lane]);
        group[lane % GROUP_LANES + GROUP_LANES] = static_cast<uint8_t>(states[lane] >> 8);
    }
}

}  // namespace

const Kernels AVX2_KERNELS = {
    "avx2",        crc32_avx2,     survey_words_scalar,     split_steps,
    encode_stream, decode_streams, decode_token_steps_avx2, join_words_avx2,
};

}  // namespace wcodec
