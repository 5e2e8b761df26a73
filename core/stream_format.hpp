// SPDX-License-Identifier: Apache-2.0
//
// Constants of the entropy streams: the numbers of docs/format.md sections 7 and 8. This header is
// compiled by the C++ compiler, by nvcc and by NVRTC, and its values are exported to Python by
// bindings.cpp, so it includes nothing but <stdint.h> (which NVRTC has not) and holds no code.
#pragma once

#if defined(__CUDACC_RTC__)
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

namespace wcodec {

// Format: changing anything in this file changes what a file means.

// Codings of a block, and families of a layer.
enum Coding : uint8_t {
    CODING_RAW = 0,
    CODING_CONSTANT = 1,
    CODING_RANS16 = 2,
    CODING_RANS32 = 3,   // reserved
    CODING_SPATIAL = 4,  // reserved
    CODING_LZ = 5,
    CODING_DELTA = 6,  // reserved
    CODING_ROW_GROUPS = 8,
    CODING_DIRECTORY = 255,
};

constexpr uint32_t BLOCK_HEADER_BYTES = 16;
constexpr uint32_t BLOCK_ALIGNMENT = 16;
// SIMD kernels may read this far beyond the last byte of a block, so whoever hands a block to the
// core owns that much more.
constexpr uint32_t READ_SLACK_BYTES = 64;
constexpr uint64_t MAX_BLOCK_UNITS = uint64_t(1) << 24;
constexpr uint64_t MAX_BLOCK_BYTES = uint64_t(1) << 25;
constexpr uint32_t MAX_ROW_GROUPS = 8;

// rans16: 16-bit states in [STATE_LOWER, 2^16), byte renormalisation, frequencies that sum to
// 2^SCALE_BITS.
constexpr uint32_t LANES = 128;
constexpr uint32_t GROUP_LANES = 64;
constexpr uint32_t SCALE_BITS = 8;
constexpr uint32_t SCALE = 1u << SCALE_BITS;
constexpr uint32_t STATE_LOWER = 256;
constexpr uint32_t FINAL_STATE = STATE_LOWER;
constexpr uint32_t STATES_BYTES = 2 * LANES;
constexpr uint32_t MAX_SYMBOLS = 64;  // 63 and the escape
constexpr uint32_t MIN_SYMBOLS = 2;
constexpr uint32_t NO_ESCAPE = 255;
constexpr uint32_t MAX_STREAMS = 4;

// Field maps: how a word splits into a coded symbol and raw fields. "E8" codes the exponent, "M1"
// the top mantissa bit with it, "Z" low bits are zero in every word of the block.
enum Form : uint8_t {
    FORM_NONE = 0,
    FORM_BF16_E8 = 1,
    FORM_BF16_E8M1 = 2,
    FORM_FP16_E5M1 = 3,
    FORM_FP32_E8 = 4,
    FORM_FP32_E8M1 = 5,
    FORM_FP32_E8_Z13 = 6,
    FORM_FP32_E8M1_Z13 = 7,
    FORM_FP32_E8_Z16 = 8,
    FORM_FP32_E8M1_Z16 = 9,
};
constexpr uint32_t N_FORMS = 10;

// Bytes of one raw field in one step of 128 lanes.
constexpr uint32_t P8_BYTES = 128;
constexpr uint32_t F7_BYTES = 112;
constexpr uint32_t F3_BYTES = 48;
constexpr uint32_t F2_BYTES = 32;

struct FieldMap {
    uint8_t unit_bytes;      // w
    uint16_t value_mask;     // bits a value may have (for w = 4: of the top half)
    uint8_t n_escape_lists;  // 1: value = byte << escape_shift; 2: value = high << 8 | low
    uint8_t escape_shift;
    uint16_t top_field;   // P8_BYTES or F7_BYTES: the field that holds the sign
    uint16_t low_fields;  // bytes a step of the fields after it
    uint8_t zero_bits;    // low bits of the word that are zero
};

constexpr FieldMap FIELD_MAPS[N_FORMS] = {
    {0, 0x0000, 0, 0, 0, 0, 0},
    {2, 0x7F80, 1, 7, P8_BYTES, 0, 0},
    {2, 0x7FC0, 2, 0, F7_BYTES, 0, 0},
    {2, 0x7E00, 1, 8, P8_BYTES, F2_BYTES, 0},
    {4, 0x7F80, 1, 7, P8_BYTES, 2 * P8_BYTES, 0},
    {4, 0x7FC0, 2, 0, F7_BYTES, 2 * P8_BYTES, 0},
    {4, 0x7F80, 1, 7, P8_BYTES, F3_BYTES, 13},
    {4, 0x7FC0, 2, 0, F7_BYTES, F3_BYTES, 13},
    {4, 0x7F80, 1, 7, P8_BYTES, 0, 16},
    {4, 0x7FC0, 2, 0, F7_BYTES, 0, 16},
};

}  // namespace wcodec
