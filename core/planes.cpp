// SPDX-License-Identifier: Apache-2.0
//
// The reference for splitting and joining words. "top" is the word itself (w = 2) or its upper half
// (w = 4): the half with sign, exponent and first mantissa bits, treated alike for bf16 and fp32.
// For w = 1 it is the byte at the bits of a value.
#include "planes.hpp"

#include <array>
#include <type_traits>

#include "bytes.hpp"

namespace wcodec {
namespace {

// Order "U" moves pieces of 16 bytes: lanes 16 q + 16 / w * k + j and units 64 / w * k + 16 / w * q
// + j (0 <= j < 16 / w) are the same words, so words in lane order are permuted piece by piece.
constexpr uint32_t PIECE_BYTES = 16;

// PIECE_OF_UNITS[i]: which piece of the lane order is piece i of a group's units. Piece 4 k + q of
// the units is piece w q + k of the lanes.
template <unsigned w>
constexpr std::array<uint8_t, 4 * w> make_piece_of_units() {
    std::array<uint8_t, 4 * w> piece_of_units{};
    for (unsigned q = 0; q < 4; ++q)
        for (unsigned k = 0; k < w; ++k)
            piece_of_units[4 * k + q] = static_cast<uint8_t>(w * q + k);
    return piece_of_units;
}

template <unsigned w>
constexpr std::array<uint8_t, 4 * w> PIECE_OF_UNITS = make_piece_of_units<w>();
static_assert(PIECE_OF_UNITS<2>[4] == 1 && PIECE_OF_UNITS<4>[4] == 1);

template <typename Word>
void units_to_lanes(const uint8_t* units, Word* lanes) {
    constexpr unsigned w = sizeof(Word);
    uint8_t* to = reinterpret_cast<uint8_t*>(lanes);
    for (uint32_t group = 0; group < 2; ++group, units += GROUP_LANES * w, to += GROUP_LANES * w)
        for (uint32_t i = 0; i < 4 * w; ++i)
            std::memcpy(to + PIECE_OF_UNITS<w>[i] * PIECE_BYTES, units + i * PIECE_BYTES,
                        PIECE_BYTES);
}

template <typename Word>
void lanes_to_units(const Word* lanes, uint8_t* units) {
    constexpr unsigned w = sizeof(Word);
    const uint8_t* from = reinterpret_cast<const uint8_t*>(lanes);
    for (uint32_t group = 0; group < 2; ++group, units += GROUP_LANES * w, from += GROUP_LANES * w)
        for (uint32_t i = 0; i < 4 * w; ++i)
            std::memcpy(units + i * PIECE_BYTES, from + PIECE_OF_UNITS<w>[i] * PIECE_BYTES,
                        PIECE_BYTES);
}

// Fields of `bits` bits, lane l at bits bits * l of a little-endian bit string: eight lanes make
// `bits` whole bytes.
template <unsigned bits>
void pack_field(const uint8_t* fields, uint8_t* to) {
    for (uint32_t lane = 0; lane < LANES; lane += 8, to += bits) {
        uint64_t string = 0;
        for (uint32_t i = 0; i < 8; ++i) string |= uint64_t(fields[lane + i]) << (bits * i);
        std::memcpy(to, &string, bits);
    }
}

template <unsigned bits>
void unpack_field(const uint8_t* from, uint8_t* fields) {
    for (uint32_t lane = 0; lane < LANES; lane += 8, from += bits) {
        uint64_t string = 0;
        std::memcpy(&string, from, bits);
        for (uint32_t i = 0; i < 8; ++i)
            fields[lane + i] = (string >> (bits * i)) & ((1u << bits) - 1);
    }
}

// F2: lane p of group g is in byte 16 g + p % 16 at bits 2 (p / 16).
void pack_f2(const uint8_t* fields, uint8_t* to) {
    for (uint32_t b = 0; b < F2_BYTES; ++b) {
        const uint8_t* lane = fields + b / 16 * GROUP_LANES + b % 16;
        to[b] = static_cast<uint8_t>(lane[0] | lane[16] << 2 | lane[32] << 4 | lane[48] << 6);
    }
}

void unpack_f2(const uint8_t* from, uint8_t* fields) {
    for (uint32_t b = 0; b < F2_BYTES; ++b) {
        uint8_t* lane = fields + b / 16 * GROUP_LANES + b % 16;
        for (uint32_t i = 0; i < 4; ++i) lane[16 * i] = from[b] >> (2 * i) & 3;
    }
}

// The raw bits of a byte as one field, and back.
template <Form form>
uint8_t field_of_byte(uint32_t byte) {
    if constexpr (form == FORM_FP8_T5) return static_cast<uint8_t>((byte >> 5 & 4) | (byte & 3));
    return static_cast<uint8_t>(byte & ~(FIELD_MAPS[form].value_mask >> BYTE_SHIFT));
}

template <Form form>
uint32_t byte_of_field(uint8_t field) {
    if constexpr (form == FORM_FP8_T5) return (field & 4u) << 5 | (field & 3u);
    return field;
}

struct StepFields {
    uint8_t top[LANES];  // sign and mantissa bits of the top half: P8 or F7; or those of a byte
    uint8_t mid[LANES];  // bits 15..8 of a 4-byte word (P8), or its bits 15..13 (F3), or bits 8..7
                         // of fp16 (F2)
    uint8_t low[LANES];  // bits 7..0 of a 4-byte word (P8)
};

template <unsigned unit_bytes>
using WordOf = std::conditional_t<unit_bytes == 1, uint8_t,
                                  std::conditional_t<unit_bytes == 2, uint16_t, uint32_t>>;

constexpr uint32_t top_of(uint32_t word, unsigned unit_bytes) {
    return unit_bytes == 1 ? word << BYTE_SHIFT : unit_bytes == 2 ? word : word >> 16;
}

template <Form form>
void split_step(const uint8_t* words, uint16_t* values, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    using Word = WordOf<map.unit_bytes>;
    Word lanes[LANES];
    StepFields fields;
    units_to_lanes(words, lanes);
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        const uint32_t word = lanes[lane];
        const uint32_t top = top_of(word, map.unit_bytes);
        values[lane] = static_cast<uint16_t>(top & map.value_mask);
        if constexpr (map.unit_bytes == 1) fields.top[lane] = field_of_byte<form>(word);
        if constexpr (map.top_field == P8_BYTES)
            fields.top[lane] = static_cast<uint8_t>((top >> 8 & 0x80) | (top & 0x7F));
        if constexpr (map.top_field == F7_BYTES)
            fields.top[lane] = static_cast<uint8_t>((top >> 9 & 0x40) | (top & 0x3F));
        if constexpr (map.low_fields == F2_BYTES) fields.mid[lane] = word >> 7 & 3;
        if constexpr (map.low_fields == F3_BYTES) fields.mid[lane] = word >> 13 & 7;
        if constexpr (map.low_fields == 2 * P8_BYTES) {
            fields.mid[lane] = static_cast<uint8_t>(word >> 8);
            fields.low[lane] = static_cast<uint8_t>(word);
        }
    }

    if constexpr (map.top_field == P8_BYTES) std::memcpy(raw, fields.top, P8_BYTES);
    if constexpr (map.top_field == F7_BYTES) pack_field<7>(fields.top, raw);
    if constexpr (map.top_field == F4_BYTES) pack_field<4>(fields.top, raw);
    if constexpr (map.top_field == F3_BYTES) pack_field<3>(fields.top, raw);
    if constexpr (map.top_field == F2_BYTES) pack_f2(fields.top, raw);
    raw += map.top_field;
    if constexpr (map.low_fields == F2_BYTES) pack_f2(fields.mid, raw);
    if constexpr (map.low_fields == F3_BYTES) pack_field<3>(fields.mid, raw);
    if constexpr (map.low_fields == 2 * P8_BYTES) {
        std::memcpy(raw, fields.mid, P8_BYTES);
        std::memcpy(raw + P8_BYTES, fields.low, P8_BYTES);
    }
}

template <Form form>
void join_step(const uint16_t* values, const uint8_t* raw, uint8_t* words) {
    constexpr FieldMap map = FIELD_MAPS[form];
    using Word = WordOf<map.unit_bytes>;
    StepFields fields;
    if constexpr (map.top_field == P8_BYTES) std::memcpy(fields.top, raw, P8_BYTES);
    if constexpr (map.top_field == F7_BYTES) unpack_field<7>(raw, fields.top);
    if constexpr (map.top_field == F4_BYTES) unpack_field<4>(raw, fields.top);
    if constexpr (map.top_field == F3_BYTES) unpack_field<3>(raw, fields.top);
    if constexpr (map.top_field == F2_BYTES) unpack_f2(raw, fields.top);
    raw += map.top_field;
    if constexpr (map.low_fields == F2_BYTES) unpack_f2(raw, fields.mid);
    if constexpr (map.low_fields == F3_BYTES) unpack_field<3>(raw, fields.mid);
    if constexpr (map.low_fields == 2 * P8_BYTES) {
        std::memcpy(fields.mid, raw, P8_BYTES);
        std::memcpy(fields.low, raw + P8_BYTES, P8_BYTES);
    }

    Word lanes[LANES];
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        uint32_t top = values[lane];
        if constexpr (map.top_field == P8_BYTES)
            top |= (fields.top[lane] & 0x80u) << 8 | (fields.top[lane] & 0x7Fu);
        if constexpr (map.top_field == F7_BYTES)
            top |= (fields.top[lane] & 0x40u) << 9 | (fields.top[lane] & 0x3Fu);
        uint32_t word = map.unit_bytes == 4 ? top << 16 : top;
        if constexpr (map.unit_bytes == 1) {
            word = top >> BYTE_SHIFT;
            if constexpr (map.top_field != 0) word |= byte_of_field<form>(fields.top[lane]);
        }
        if constexpr (map.low_fields == F2_BYTES) word |= uint32_t(fields.mid[lane]) << 7;
        if constexpr (map.low_fields == F3_BYTES) word |= uint32_t(fields.mid[lane]) << 13;
        if constexpr (map.low_fields == 2 * P8_BYTES)
            word |= uint32_t(fields.mid[lane]) << 8 | fields.low[lane];
        lanes[lane] = static_cast<Word>(word);
    }
    lanes_to_units(lanes, words);
}

using SplitStep = void (*)(const uint8_t*, uint16_t*, uint8_t*);
using JoinStep = void (*)(const uint16_t*, const uint8_t*, uint8_t*);

// Indexed by form.
constexpr SplitStep SPLIT_STEP[N_FORMS] = {
    nullptr,
    split_step<FORM_BF16_E8>,
    split_step<FORM_BF16_E8M1>,
    split_step<FORM_FP16_E5M1>,
    split_step<FORM_FP32_E8>,
    split_step<FORM_FP32_E8M1>,
    split_step<FORM_FP32_E8_Z13>,
    split_step<FORM_FP32_E8M1_Z13>,
    split_step<FORM_FP32_E8_Z16>,
    split_step<FORM_FP32_E8M1_Z16>,
    split_step<FORM_INT8_T4>,
    split_step<FORM_INT8_T5>,
    split_step<FORM_INT8_T6>,
    split_step<FORM_INT8_T8>,
    split_step<FORM_FP8_T5>,
};
constexpr JoinStep JOIN_STEP[N_FORMS] = {
    nullptr,
    join_step<FORM_BF16_E8>,
    join_step<FORM_BF16_E8M1>,
    join_step<FORM_FP16_E5M1>,
    join_step<FORM_FP32_E8>,
    join_step<FORM_FP32_E8M1>,
    join_step<FORM_FP32_E8_Z13>,
    join_step<FORM_FP32_E8M1_Z13>,
    join_step<FORM_FP32_E8_Z16>,
    join_step<FORM_FP32_E8M1_Z16>,
    join_step<FORM_INT8_T4>,
    join_step<FORM_INT8_T5>,
    join_step<FORM_INT8_T6>,
    join_step<FORM_INT8_T8>,
    join_step<FORM_FP8_T5>,
};

}  // namespace

void split_steps_scalar(Form form, const uint8_t* words, size_t n_steps, uint16_t* values,
                        uint8_t* raw) {
    const FieldMap& map = FIELD_MAPS[form];
    for (size_t step = 0; step < n_steps; ++step) {
        SPLIT_STEP[form](words, values, raw);
        words += size_t(LANES) * map.unit_bytes;
        values += LANES;
        raw += step_raw_bytes(map);
    }
}

void join_step_scalar(Form form, const uint16_t* values, const uint8_t* raw, uint8_t* words) {
    JOIN_STEP[form](values, raw, words);
}

}  // namespace wcodec
