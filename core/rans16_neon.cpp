// SPDX-License-Identifier: Apache-2.0
//
// rans16 with NEON, which every aarch64 processor has. Lanes are handled as in rans16_avx512.cpp: a
// group of 64 states is bytes, low ones and high ones, in four registers each. Tables of up to 64
// symbols are looked up with TBL. Everything here has internal linkage.
//
// Between split_steps and encode_stream values stand as split_steps_scalar writes them. Units of
// one byte are decoded as that byte.
#include <arm_neon.h>

#include "crc32.hpp"
#include "encode_index.hpp"
#include "kernels.hpp"
#include "planes.hpp"

#define INLINE __attribute__((always_inline)) inline
// Loops over registers: Clang leaves some of them loops, and then their registers are memory.
#define UNROLL _Pragma("GCC unroll 8")

namespace wcodec {
namespace {

constexpr uint32_t VECTOR_LANES = 16;
constexpr uint32_t GROUP_VECTORS = GROUP_LANES / VECTOR_LANES;
constexpr uint32_t GROUP_EIGHTS = GROUP_LANES / 8;

// A byte for each lane of a group, or a table of 64 bytes.
using Bytes64 = uint8x16x4_t;

INLINE uint8x16_t load(const uint8_t* from) { return vld1q_u8(from); }
INLINE Bytes64 load_64(const uint8_t* from) {
    return {{load(from), load(from + 16), load(from + 32), load(from + 48)}};
}
INLINE void store_64(uint8_t* to, const Bytes64& bytes) {
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) vst1q_u8(to + VECTOR_LANES * v, bytes.val[v]);
}
INLINE uint8x16_t bytes_of(uint32_t value) { return vdupq_n_u8(static_cast<uint8_t>(value)); }
INLINE uint16x8_t words(uint8x16_t bytes) { return vreinterpretq_u16_u8(bytes); }
INLINE uint8x16_t bytes(uint16x8_t words) { return vreinterpretq_u8_u16(words); }

// Bytes below 16 n_parts of a table.
template <uint32_t n_parts>
INLINE uint8x16_t look_up(const Bytes64& table, uint8x16_t index) {
    if constexpr (n_parts == 2) return vqtbl2q_u8({{table.val[0], table.val[1]}}, index);
    return vqtbl4q_u8(table, index);
}

// One bit for each lane of a group where `which` is 255 (elsewhere it is 0); a byte for eight.
INLINE uint8x8_t masks_of(const Bytes64& which) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t low = vpaddq_u8(vandq_u8(which.val[0], bit), vandq_u8(which.val[1], bit));
    const uint8x16_t high = vpaddq_u8(vandq_u8(which.val[2], bit), vandq_u8(which.val[3], bit));
    const uint8x16_t nibbles = vpaddq_u8(low, high);
    return vpadd_u8(vget_low_u8(nibbles), vget_high_u8(nibbles));
}
INLINE uint64_t as_number(uint8x8_t bytes) { return vget_lane_u64(vreinterpret_u64_u8(bytes), 0); }

// Byte i: how many lanes of eights 0 to i are in the masks.
INLINE uint64_t running_counts(uint8x8_t masks) {
    return as_number(vcnt_u8(masks)) * 0x0101010101010101;
}

// ---- joining ----

// The fields of `bits` <= 7 bits of 16 lanes are 2 bits bytes of a bit string. A lane's field
// begins in the byte that the first half of PICK names, and ends there or in the next one.
struct FieldPlaces {
    uint8_t pick[2][VECTOR_LANES];
    int8_t shift[2][VECTOR_LANES];  // to the left
};

template <unsigned bits>
constexpr FieldPlaces make_field_places() {
    FieldPlaces places{};
    for (unsigned lane = 0; lane < VECTOR_LANES; ++lane) {
        const unsigned bit = lane * bits;
        for (unsigned i = 0; i < 2; ++i) {
            places.pick[i][lane] = static_cast<uint8_t>(bit / 8 + i);
            places.shift[i][lane] = static_cast<int8_t>(8 * i - bit % 8);
        }
    }
    return places;
}

template <unsigned bits>
constexpr FieldPlaces FIELD_PLACES = make_field_places<bits>();

// The fields of 16 lanes, other bits junk. Reads 16 bytes.
template <unsigned bits>
INLINE uint8x16_t unpacked_fields(const uint8_t* from) {
    constexpr const FieldPlaces& PLACES = FIELD_PLACES<bits>;
    const uint8x16_t string = load(from);
    const uint8x16_t begins =
        vshlq_u8(vqtbl1q_u8(string, load(PLACES.pick[0])), vld1q_s8(PLACES.shift[0]));
    const uint8x16_t ends =
        vshlq_u8(vqtbl1q_u8(string, load(PLACES.pick[1])), vld1q_s8(PLACES.shift[1]));
    return vorrq_u8(begins, ends);
}

// F2: piece v of 16 lanes has its two bits at 2 v. Other bits are junk.
INLINE uint8x16_t unpacked_f2(uint32_t v, const uint8_t* from) {
    return vshlq_u8(load(from), vdupq_n_s8(static_cast<int8_t>(-2 * static_cast<int>(v))));
}

// The words of vector v of group g, from the bytes of their values. Reads up to 16 bytes from a
// field's part, at most READ_SLACK_BYTES beyond the block.
template <Form form>
INLINE void join_vector(uint32_t g, uint32_t v, uint8x16_t high, uint8x16_t low, const uint8_t* raw,
                        uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const uint32_t lane = g * GROUP_LANES + v * VECTOR_LANES;
    if constexpr (map.unit_bytes == 1) {
        uint8x16_t fields = low;
        if constexpr (map.top_field == F2_BYTES)
            fields = unpacked_f2(v, raw + g * (F2_BYTES / 2));
        else if constexpr (map.top_field != 0)
            fields = unpacked_fields<map.top_field * 8 / LANES>(raw + lane * map.top_field / LANES);
        if constexpr (form == FORM_FP8_T5)
            fields = vbslq_u8(bytes_of(0x80), vshlq_n_u8(fields, 5), fields);
        vst1q_u8(to + lane, vbslq_u8(bytes_of(map.value_mask >> BYTE_SHIFT), low, fields));
        return;
    }
    const uint8_t* low_fields = raw + map.top_field;
    if constexpr (map.top_field == P8_BYTES) {
        const uint8x16_t top = load(raw + lane);
        high = vbslq_u8(bytes_of(0x80), top, high);
        low = vbslq_u8(bytes_of(0x7F), top, low);
    } else {
        const uint8x16_t fields = unpacked_fields<7>(raw + lane * F7_BYTES / LANES);
        high = vbslq_u8(bytes_of(0x80), vshlq_n_u8(fields, 1), high);
        low = vbslq_u8(bytes_of(0x3F), fields, low);
    }
    if constexpr (map.low_fields == F2_BYTES) {
        // Field bit 1 goes to bit 0 of the high byte, field bit 0 to bit 7 of the low one.
        const uint8x16_t pair = unpacked_f2(v, low_fields + g * (F2_BYTES / 2));
        high = vbslq_u8(bytes_of(1), vshrq_n_u8(pair, 1), high);
        low = vsliq_n_u8(low, pair, 7);
    }
    const uint16x8_t tops[2] = {words(vzip1q_u8(low, high)), words(vzip2q_u8(low, high))};
    to += g * GROUP_LANES * map.unit_bytes + VECTOR_LANES * v;
    if constexpr (map.unit_bytes == 2) {
        for (uint32_t i = 0; i < 2; ++i) vst1q_u8(to + 64 * i, bytes(tops[i]));
    } else {
        uint8x16_t mid = bytes_of(0);
        uint8x16_t lowest = mid;
        if constexpr (map.low_fields == F3_BYTES) {
            mid = vshlq_n_u8(unpacked_fields<3>(low_fields + lane * F3_BYTES / LANES), 5);
        } else if constexpr (map.low_fields != 0) {
            mid = load(low_fields + lane);
            lowest = load(low_fields + P8_BYTES + lane);
        }
        const uint16x8_t bottoms[2] = {words(vzip1q_u8(lowest, mid)),
                                       words(vzip2q_u8(lowest, mid))};
        for (uint32_t i = 0; i < 2; ++i) {
            vst1q_u8(to + 128 * i, bytes(vzip1q_u16(bottoms[i], tops[i])));
            vst1q_u8(to + 128 * i + 64, bytes(vzip2q_u16(bottoms[i], tops[i])));
        }
    }
}

// ---- decoding ----

// The symbol of a slot is the number of symbols that begin at 1 to slot. Eight slots have a byte:
// which of them begin a symbol; and the number of those before them.
constexpr uint32_t N_EIGHTS = SCALE / 8;

struct DecodeTables {
    uint8x16x2_t before;
    uint8x16x2_t begins;
    Bytes64 frequency;
    Bytes64 cum;
    Bytes64 value_high;
    Bytes64 value_low;  // units of one byte stand here
    uint8_t escape;     // its symbol, which is the last; 255 without one
};

void build_tables(const FieldMap& map, const FrequencyTable& table, DecodeTables& tables) {
    const unsigned low_shift = map.unit_bytes == 1 ? BYTE_SHIFT : 0;
    uint8_t before[N_EIGHTS], begins[N_EIGHTS] = {};
    uint8_t frequency[MAX_SYMBOLS] = {}, cum[MAX_SYMBOLS] = {};
    uint8_t high[MAX_SYMBOLS] = {}, low[MAX_SYMBOLS] = {};
    uint32_t at = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        frequency[i] = table.frequency[i];
        cum[i] = static_cast<uint8_t>(at);
        high[i] = static_cast<uint8_t>(table.value[i] >> 8);
        low[i] = static_cast<uint8_t>(table.value[i] >> low_shift);
        if (i > 0) begins[at / 8] |= static_cast<uint8_t>(1 << at % 8);
        at += table.frequency[i];
    }
    uint8_t n = 0;
    for (uint32_t i = 0; i < N_EIGHTS; ++i) {
        before[i] = n;
        n = static_cast<uint8_t>(n + __builtin_popcount(begins[i]));
    }
    tables.before = {{load(before), load(before + 16)}};
    tables.begins = {{load(begins), load(begins + 16)}};
    tables.frequency = load_64(frequency);
    tables.cum = load_64(cum);
    tables.value_high = load_64(high);
    tables.value_low = load_64(low);
    tables.escape = static_cast<uint8_t>(table.escape);
}

INLINE uint8x16_t symbols_of(const DecodeTables& tables, uint8x16_t slots) {
    const uint8x16_t eights = vshrq_n_u8(slots, 3);
    // Bits 0 to i of a byte, for i = slot % 8, moved to its top.
    const int8x16_t to_top = vreinterpretq_s8_u8(vbicq_u8(bytes_of(7), slots));
    const uint8x16_t begun = vshlq_u8(vqtbl2q_u8(tables.begins, eights), to_top);
    return vaddq_u8(vqtbl2q_u8(tables.before, eights), vcntq_u8(begun));
}

// The places of the lanes of a mask among the next eight bytes, lanes of the mask in turn. Other
// lanes, and the eight bytes before and behind the eight places, are 255: TBX leaves those alone.
struct Expand {
    uint8_t to[8 + 256 * 16];
};

constexpr Expand make_expand() {
    Expand expand{};
    for (uint8_t& place : expand.to) place = 255;
    for (unsigned mask = 0; mask < 256; ++mask) {
        uint8_t next = 0;
        for (unsigned lane = 0; lane < 8; ++lane)
            if (mask >> lane & 1) expand.to[8 + 16 * mask + lane] = next++;
    }
    return expand;
}

alignas(64) constexpr Expand EXPAND = make_expand();

// Puts the next bytes into the lanes of `which`. Looks at up to 16 bytes from each taken one on.
INLINE void take_bytes(const uint8_t*& from, const Bytes64& which, Bytes64& lanes) {
    const uint8x8_t masks = masks_of(which);
    const uint64_t mask = as_number(masks);
    const uint64_t counts = running_counts(masks);
    const uint64_t begins = counts << 8;
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint8_t* low = EXPAND.to + 8 + 16 * (mask >> 16 * v & 0xFF);
        const uint8_t* high = EXPAND.to + 16 * (mask >> (16 * v + 8) & 0xFF);
        const uint8x16_t first = load(from + (begins >> 16 * v & 0xFF));
        const uint8x16_t second = load(from + (begins >> (16 * v + 8) & 0xFF));
        lanes.val[v] = vqtbx1q_u8(vqtbx1q_u8(lanes.val[v], first, load(low)), second, load(high));
    }
    from += counts >> 56;
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

// The values of a group, with those of the lanes whose symbol is the escape taken from the lists.
template <Form form>
__attribute__((noinline)) void take_escapes(const DecodeStream& stream, const Bytes64& symbols,
                                            uint8_t escape, uint64_t& n_escapes,
                                            Bytes64& value_high, Bytes64& value_low) {
    uint8_t symbol[GROUP_LANES], high[GROUP_LANES], low[GROUP_LANES];
    store_64(symbol, symbols);
    store_64(high, value_high);
    store_64(low, value_low);
    for (uint32_t lane = 0; lane < GROUP_LANES; ++lane) {
        if (symbol[lane] != escape) continue;
        const uint32_t value = escape_value<form>(stream, n_escapes++);
        high[lane] = static_cast<uint8_t>(value >> 8);
        low[lane] =
            static_cast<uint8_t>(FIELD_MAPS[form].unit_bytes == 1 ? value >> BYTE_SHIFT : value);
    }
    value_high = load_64(high);
    value_low = load_64(low);
}

// The states of a group.
struct States {
    Bytes64 low;
    Bytes64 high;
};

// Decodes one symbol in each lane of group g and writes its words. n_parts: enough for the symbols
// of the table.
template <Form form, uint32_t n_parts>
INLINE void decode_group(uint32_t g, const DecodeTables& tables, const DecodeStream& stream,
                         States& states, const uint8_t*& from, uint64_t& n_escapes,
                         const uint8_t* raw, uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    Bytes64 symbols, value_high{}, value_low{}, due;
    uint8x16_t last = bytes_of(0);
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint8x16_t slot = states.low.val[v];
        const uint8x16_t symbol = symbols_of(tables, slot);
        const uint8x16_t frequency = look_up<n_parts>(tables.frequency, symbol);
        const uint8x16_t bias = vsubq_u8(slot, look_up<n_parts>(tables.cum, symbol));
        if constexpr (map.unit_bytes != 1)
            value_high.val[v] = look_up<n_parts>(tables.value_high, symbol);
        // The values of form 3 have no low byte.
        if constexpr (map.unit_bytes == 1 || map.value_mask & 0xFF)
            value_low.val[v] = look_up<n_parts>(tables.value_low, symbol);
        symbols.val[v] = symbol;
        last = vmaxq_u8(last, symbol);

        // x = frequency * high + bias <= 65279.
        const uint8x16_t high = states.high.val[v];
        const uint8x16_t low_half =
            bytes(vaddw_u8(vmull_u8(vget_low_u8(frequency), vget_low_u8(high)), vget_low_u8(bias)));
        const uint8x16_t high_half = bytes(vaddw_high_u8(vmull_high_u8(frequency, high), bias));
        const uint8x16_t new_low = vuzp1q_u8(low_half, high_half);
        const uint8x16_t new_high = vuzp2q_u8(low_half, high_half);
        due.val[v] = vceqzq_u8(new_high);
        states.low.val[v] = new_low;
        states.high.val[v] = vbslq_u8(due.val[v], new_low, new_high);
    }
    take_bytes(from, due, states.low);
    if (__builtin_expect(vmaxvq_u8(last) == tables.escape, 0)) {
        Bytes64 with_high = value_high, with_low = value_low;  // those others stay in registers
        take_escapes<form>(stream, symbols, tables.escape, n_escapes, with_high, with_low);
        value_high = with_high;
        value_low = with_low;
    }
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v)
        join_vector<form>(g, v, value_high.val[v], value_low.val[v], raw, to);
}

template <Form form, uint32_t n_parts>
void decode_stream(const DecodeTables& tables, DecodeStream& stream, const uint8_t* raw,
                   const StepTarget& target, Fetcher& fetcher) {
    constexpr FieldMap map = FIELD_MAPS[form];
    States states[2];
    for (uint32_t g = 0; g < 2; ++g) {
        const uint8_t* group = stream.states + g * 2 * GROUP_LANES;
        states[g] = {load_64(group), load_64(group + GROUP_LANES)};
    }
    const uint8_t* from = stream.bytes;
    uint64_t missing_bytes = 0;
    uint64_t n_escapes = 0;
    raw += stream.first_step * step_raw_bytes(map);
    uint64_t row = stream.first_step / target.steps_per_row;
    uint64_t step_in_row = stream.first_step % target.steps_per_row;
    for (uint64_t step = 0; step < stream.n_steps; ++step) {
        fetch(fetcher);
        // Untrusted: the stream may be too short for its states. A step takes at most LANES bytes;
        // where fewer are left it reads a copy with zeros behind them. Eight lanes look at 16
        // bytes.
        uint8_t last_bytes[LANES + 8];
        const uint64_t n_left = static_cast<uint64_t>(stream.bytes_end - from);
        const uint8_t* next = from;
        if (__builtin_expect(n_left < LANES, 0)) {
            __builtin_memset(last_bytes, 0, sizeof last_bytes);
            __builtin_memcpy(last_bytes, from, n_left);
            next = last_bytes;
        }
        const uint8_t* const step_begin = next;
        uint8_t* to = target.base + row * target.row_stride + step_in_row * LANES * map.unit_bytes;
        for (uint32_t g = 0; g < 2; ++g)
            decode_group<form, n_parts>(g, tables, stream, states[g], next, n_escapes, raw, to);
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
    uint8x16_t others = bytes_of(0);
    for (const States& group : states) {
        for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
            others = vorrq_u8(others, veorq_u8(group.low.val[v], bytes_of(FINAL_STATE & 0xFF)));
            others = vorrq_u8(others, veorq_u8(group.high.val[v], bytes_of(FINAL_STATE >> 8)));
        }
    }
    stream.final_states = vmaxvq_u8(others) == 0;
}

using DecodeOne = void (*)(const DecodeTables&, DecodeStream&, const uint8_t*, const StepTarget&,
                           Fetcher&);
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

void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead& ahead) {
    DecodeTables tables;
    build_tables(FIELD_MAPS[form], table, tables);
    const DecodeOne decode =
        table.n_symbols <= 32 ? DECODE_STREAM<2>[form] : DECODE_STREAM<4>[form];
    uint64_t n_steps = 0;
    for (uint32_t s = 0; s < n_streams; ++s) n_steps += streams[s].n_steps;
    Fetcher fetcher = fetch_over(ahead, n_steps);
    for (uint32_t s = 0; s < n_streams; ++s) decode(tables, streams[s], raw, target, fetcher);
}

// ---- splitting ----

// A register holds two strings of eight fields of `bits` bits in the first bytes of its halves.
// GATHER brings those of four registers close together.
struct Gather {
    uint8_t from[GROUP_LANES];
};

template <unsigned bits>
constexpr Gather make_gather() {
    Gather gather{};
    for (unsigned i = 0; i < 8 * bits; ++i)
        gather.from[i] = static_cast<uint8_t>(i / bits * 8 + i % bits);
    return gather;
}

template <unsigned bits>
constexpr Gather GATHER = make_gather<bits>();

// Fields of `bits` <= 7 bits, one a byte, as a bit string of 8 bits bytes: pairs of fields become
// words, pairs of words dwords, pairs of dwords quadwords.
template <unsigned bits>
INLINE void pack_field(const Bytes64& fields, uint8_t* to) {
    Bytes64 strings;
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint16x8_t field = words(fields.val[v]);
        const uint32x4_t two = vreinterpretq_u32_u16(
            vbslq_u16(vdupq_n_u16((1 << bits) - 1), field, vshrq_n_u16(field, 8 - bits)));
        const uint64x2_t four = vreinterpretq_u64_u32(
            vbslq_u32(vdupq_n_u32((1 << 2 * bits) - 1), two, vshrq_n_u32(two, 16 - 2 * bits)));
        strings.val[v] = vreinterpretq_u8_u64(
            vbslq_u64(vdupq_n_u64((1 << 4 * bits) - 1), four, vshrq_n_u64(four, 32 - 4 * bits)));
    }
    for (uint32_t i = 0; i < bits / 2; ++i)
        vst1q_u8(to + 16 * i, vqtbl4q_u8(strings, load(GATHER<bits>.from + 16 * i)));
    if constexpr (bits % 2)
        vst1_u8(to + 8 * (bits - 1),
                vqtbl4_u8(strings, vld1_u8(GATHER<bits>.from + 8 * (bits - 1))));
}

// F2: piece v of 16 lanes has its two bits, the lowest of `fields`, at bits 2 v.
INLINE void pack_f2(const Bytes64& fields, uint8_t* to) {
    const uint8x16_t low = vsliq_n_u8(fields.val[0], fields.val[1], 2);
    const uint8x16_t high = vsliq_n_u8(fields.val[2], fields.val[3], 2);
    vst1q_u8(to, vsliq_n_u8(low, high, 4));
}

template <Form form>
INLINE void split_group_of_bytes(uint32_t g, const uint8_t* units, uint16_t* values, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    constexpr uint32_t CODED = map.value_mask >> BYTE_SHIFT;
    Bytes64 fields;
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint32_t lane = g * GROUP_LANES + v * VECTOR_LANES;
        const uint8x16_t unit = load(units + lane);
        const uint8x16_t coded = vandq_u8(unit, bytes_of(CODED));
        vst1q_u16(values + lane, vshll_n_u8(vget_low_u8(coded), BYTE_SHIFT));
        vst1q_u16(values + lane + 8, vshll_high_n_u8(coded, BYTE_SHIFT));
        fields.val[v] = vbicq_u8(unit, bytes_of(CODED));
        if constexpr (form == FORM_FP8_T5)  // bit 7 becomes bit 2
            fields.val[v] =
                vorrq_u8(vandq_u8(unit, bytes_of(3)), vshlq_n_u8(vshrq_n_u8(unit, 7), 2));
    }
    if constexpr (map.top_field == F2_BYTES)
        pack_f2(fields, raw + g * (F2_BYTES / 2));
    else if constexpr (map.top_field != 0)
        pack_field<map.top_field * 8 / LANES>(fields, raw + g * (map.top_field / 2));
}

// The words of a group, or the upper and the lower halves of 32-bit ones, in lane order.
struct Words {
    uint16x8_t tops[2];
    uint16x8_t bottoms[2];
};

template <Form form>
INLINE Words load_words(const uint8_t* units, uint32_t v) {
    constexpr FieldMap map = FIELD_MAPS[form];
    Words result{};
    const uint8_t* from = units + VECTOR_LANES * v;
    for (uint32_t i = 0; i < 2; ++i) {
        if constexpr (map.unit_bytes == 2) {
            result.tops[i] = words(load(from + 64 * i));
        } else {
            const uint16x8_t low = words(load(from + 128 * i));
            const uint16x8_t high = words(load(from + 128 * i + 64));
            result.tops[i] = vuzp2q_u16(low, high);
            result.bottoms[i] = vuzp1q_u16(low, high);
        }
    }
    return result;
}

// Writes the values and the raw fields of group g.
template <Form form>
INLINE void split_group(uint32_t g, const uint8_t* units, uint16_t* values, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    units += g * GROUP_LANES * map.unit_bytes;
    uint8_t* low_fields = raw + map.top_field;
    Bytes64 fields, middle;
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint32_t lane = g * GROUP_LANES + v * VECTOR_LANES;
        const Words word = load_words<form>(units, v);
        for (uint32_t i = 0; i < 2; ++i)
            vst1q_u16(values + lane + 8 * i, vandq_u16(word.tops[i], vdupq_n_u16(map.value_mask)));
        const uint8x16_t low = vuzp1q_u8(bytes(word.tops[0]), bytes(word.tops[1]));
        const uint8x16_t high = vuzp2q_u8(bytes(word.tops[0]), bytes(word.tops[1]));
        const uint8x16_t lowest = vuzp1q_u8(bytes(word.bottoms[0]), bytes(word.bottoms[1]));
        const uint8x16_t mid = vuzp2q_u8(bytes(word.bottoms[0]), bytes(word.bottoms[1]));
        if constexpr (map.top_field == P8_BYTES)
            vst1q_u8(raw + lane, vbslq_u8(bytes_of(0x80), high, low));
        else  // the sign at bit 6
            fields.val[v] =
                vorrq_u8(vandq_u8(low, bytes_of(0x3F)), vshlq_n_u8(vshrq_n_u8(high, 7), 6));
        if constexpr (map.low_fields == F2_BYTES)  // bit 0 of high, bit 7 of low
            middle.val[v] = vsliq_n_u8(vshrq_n_u8(low, 7), high, 1);
        if constexpr (map.low_fields == F3_BYTES) middle.val[v] = vshrq_n_u8(mid, 5);
        if constexpr (map.low_fields == 2 * P8_BYTES) {
            vst1q_u8(low_fields + lane, mid);
            vst1q_u8(low_fields + P8_BYTES + lane, lowest);
        }
    }
    if constexpr (map.top_field == F7_BYTES) pack_field<7>(fields, raw + g * (F7_BYTES / 2));
    if constexpr (map.low_fields == F2_BYTES) pack_f2(middle, low_fields + g * (F2_BYTES / 2));
    if constexpr (map.low_fields == F3_BYTES)
        pack_field<3>(middle, low_fields + g * (F3_BYTES / 2));
}

template <Form form>
void split_form(const uint8_t* units, size_t n_steps, uint16_t* values, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    for (; n_steps > 0; --n_steps) {
        for (uint32_t g = 0; g < 2; ++g) {
            if constexpr (map.unit_bytes == 1)
                split_group_of_bytes<form>(g, units, values, raw);
            else
                split_group<form>(g, units, values, raw);
        }
        units += LANES * map.unit_bytes;
        values += LANES;
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

void split_steps(Form form, const uint8_t* units, size_t n_steps, uint16_t* values, uint8_t* raw) {
    SPLIT_FORM[form](units, n_steps, values, raw);
}

// ---- encoding ----

// IndexTables in registers.
struct EncodeTables {
    Bytes64 frequency;
    Bytes64 cum;
    Bytes64 inverse_low;
    Bytes64 inverse_high;
    Bytes64 escape;
};

void build_tables(const FrequencyTable& table, const Indexing& indexing, EncodeTables& tables) {
    const IndexTables bytes = make_index_tables(table, indexing);
    tables.frequency = load_64(bytes.frequency);
    tables.cum = load_64(bytes.cum);
    tables.inverse_low = load_64(bytes.inverse_low);
    tables.inverse_high = load_64(bytes.inverse_high);
    tables.escape = load_64(bytes.escape);
}

// Puts indices by distance (bytes) in the place of the values, and lists the escapes.
template <uint32_t n_parts>
void index_values(const FieldMap& map, const Indexing& indexing, const EncodeTables& tables,
                  EncodeStream& stream) {
    const uint64_t n_lanes = stream.n_steps * LANES;
    const uint16_t* values = stream.values;
    uint8_t* indices = reinterpret_cast<uint8_t*>(stream.values);
    const uint16x8_t first = vdupq_n_u16(static_cast<uint16_t>(indexing.first << CODE_SHIFT));
    const uint16x8_t last = vdupq_n_u16(static_cast<uint16_t>(indexing.last));
    const int16x8_t shift =
        vdupq_n_s16(static_cast<int16_t>(-static_cast<int>(indexing.shift + CODE_SHIFT)));
    const auto distance = [&](const uint16_t* from) {
        return bytes(vminq_u16(vshlq_u16(vsubq_u16(vld1q_u16(from), first), shift), last));
    };
    for (uint64_t i = 0; i < n_lanes; i += GROUP_LANES) {
        Bytes64 index, escapes;
        uint8x16_t any = bytes_of(0);
        UNROLL
        for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
            const uint16_t* from = values + i + v * VECTOR_LANES;
            index.val[v] = vuzp1q_u8(distance(from), distance(from + 8));
            escapes.val[v] = look_up<n_parts>(tables.escape, index.val[v]);
            any = vorrq_u8(any, escapes.val[v]);
        }
        if (__builtin_expect(vmaxvq_u8(any) != 0, 0)) {
            uint64_t which = as_number(masks_of(escapes));
            for (; which != 0; which &= which - 1) {
                const uint32_t value = values[i + static_cast<uint32_t>(__builtin_ctzll(which))];
                put_escape(map, stream, value >> CODE_SHIFT);
            }
        }
        store_64(indices + i, index);
    }
}

// COMPRESS.to[half][mask]: the places of the lanes of the mask, close together at the end, in one
// half of a register.
struct Compress {
    alignas(8) uint8_t to[2][256][8];
};

constexpr Compress make_compress() {
    Compress compress{};
    for (unsigned half = 0; half < 2; ++half) {
        for (unsigned mask = 0; mask < 256; ++mask) {
            unsigned at = 8;
            for (unsigned lane = 8; lane-- > 0;)
                if (mask >> lane & 1)
                    compress.to[half][mask][--at] = static_cast<uint8_t>(8 * half + lane);
        }
    }
    return compress;
}

constexpr Compress COMPRESS = make_compress();

// Writes the bytes of the lanes of `which` before `to`, in lane order. Writes up to 8 bytes more
// before them.
INLINE void put_bytes(uint8_t*& to, const Bytes64& which, const Bytes64& lanes) {
    const uint8x8_t masks = masks_of(which);
    const uint64_t mask = as_number(masks);
    const uint64_t ends = running_counts(masks);
    to -= ends >> 56;
    UNROLL
    for (uint32_t i = GROUP_EIGHTS; i-- > 0;) {
        const uint8_t* places = COMPRESS.to[i % 2][mask >> 8 * i & 0xFF];
        vst1_u8(to + (ends >> 8 * i & 0xFF) - 8, vqtbl1_u8(lanes.val[i / 2], vld1_u8(places)));
    }
}

// Bytes 2 of the products of 16 words.
INLINE uint8x16_t products(uint16x8_t a0, uint16x8_t b0, uint16x8_t a1, uint16x8_t b1) {
    const auto high_halves = [](uint16x8_t a, uint16x8_t b) {
        return bytes(vuzp2q_u16(vreinterpretq_u16_u32(vmull_u16(vget_low_u16(a), vget_low_u16(b))),
                                vreinterpretq_u16_u32(vmull_high_u16(a, b))));
    };
    return vuzp1q_u8(high_halves(a0, b0), high_halves(a1, b1));
}

// Codes one symbol in each lane of a group.
template <uint32_t n_parts>
INLINE void encode_group(const EncodeTables& tables, const uint8_t* indices, States& states,
                         uint8_t*& to) {
    Bytes64 leaves;
    const Bytes64 leaving = states.low;
    UNROLL
    for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
        const uint8x16_t index = load(indices + v * VECTOR_LANES);
        const uint8x16_t frequency = look_up<n_parts>(tables.frequency, index);
        const uint8x16_t cum = look_up<n_parts>(tables.cum, index);
        const uint8x16_t inverse_low = look_up<n_parts>(tables.inverse_low, index);
        const uint8x16_t inverse_high = look_up<n_parts>(tables.inverse_high, index);

        // Where x / f >= 256 the low byte leaves first.
        leaves.val[v] = vcgeq_u8(states.high.val[v], frequency);
        const uint8x16_t low = vbslq_u8(leaves.val[v], states.high.val[v], states.low.val[v]);
        const uint8x16_t high = vbicq_u8(states.high.val[v], leaves.val[v]);

        const uint16x8_t x0 = words(vzip1q_u8(low, high));
        const uint16x8_t x1 = words(vzip2q_u8(low, high));
        const uint8x16_t estimate = products(x0, words(vzip1q_u8(inverse_low, inverse_high)), x1,
                                             words(vzip2q_u8(inverse_low, inverse_high)));
        // The rest is below 2 f <= 510; f <= 255 lets it saturate.
        const uint16x8_t rest0 = vmlsl_u8(x0, vget_low_u8(estimate), vget_low_u8(frequency));
        const uint16x8_t rest1 = vmlsl_high_u8(x1, estimate, frequency);
        const uint8x16_t rest = vqmovn_high_u16(vqmovn_u16(rest0), rest1);
        const uint8x16_t quotient = vsubq_u8(estimate, vcgeq_u8(rest, frequency));
        // C(s, x) = (x / f) << 8 | (x % f + cum), whose low byte is x + cum - x / f * f.
        states.low.val[v] = vmlsq_u8(vaddq_u8(low, cum), quotient, frequency);
        states.high.val[v] = quotient;
    }
    put_bytes(to, leaves, leaving);
}

template <uint32_t n_parts>
void encode_indices(const EncodeTables& tables, EncodeStream& stream, Fetcher& fetcher) {
    States states[2];
    for (States& group : states) {
        for (uint32_t v = 0; v < GROUP_VECTORS; ++v) {
            group.low.val[v] = bytes_of(FINAL_STATE & 0xFF);
            group.high.val[v] = bytes_of(FINAL_STATE >> 8);
        }
    }
    const uint8_t* indices =
        reinterpret_cast<const uint8_t*>(stream.values) + stream.n_steps * LANES;
    uint8_t* to = stream.bytes_end;
    Fetcher ahead = fetcher;
    for (uint64_t step = stream.n_steps; step > 0; --step) {
        fetch(ahead);
        for (uint32_t g = 2; g-- > 0;) {
            indices -= GROUP_LANES;
            encode_group<n_parts>(tables, indices, states[g], to);
        }
    }
    fetcher = ahead;
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);
    for (uint32_t g = 0; g < 2; ++g) {
        store_64(stream.states + g * 2 * GROUP_LANES, states[g].low);
        store_64(stream.states + g * 2 * GROUP_LANES + GROUP_LANES, states[g].high);
    }
}

void encode_stream(const FieldMap& map, const FrequencyTable& table, EncodeStream& stream,
                   Fetcher& fetcher) {
    const Indexing indexing = choose_indexing(map, table);
    EncodeTables tables;
    build_tables(table, indexing, tables);
    stream.n_escapes = 0;
    const bool few = indexing.last < 32;
    if (indexing.by_distance)
        (few ? index_values<2> : index_values<4>)(map, indexing, tables, stream);
    else
        index_by_symbol(map, indexing, CODE_SHIFT, stream);
    (few ? encode_indices<2> : encode_indices<4>)(tables, stream, fetcher);
}

}  // namespace

const Kernels NEON_KERNELS = {
    "neon",
    crc32_neon,
    survey_words_scalar,
    split_steps,
    encode_stream,
    decode_streams,
    encode_token_steps_scalar,
    decode_token_steps_scalar,
    join_words_scalar,
};

}  // namespace wcodec
