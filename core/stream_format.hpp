// SPDX-License-Identifier: Apache-2.0
//
// Constants of the entropy streams: the numbers of docs/format.md sections 7 and 8. This header is
// compiled by the C++ compiler, by nvcc and by NVRTC, and its values are exported to Python by
// bindings.cpp, so it includes nothing but <stdint.h> (which NVRTC has not) and holds no code.
#pragma once

#if defined(__CUDACC_RTC__)
typedef unsigned char uint8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
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
    CODING_RANS32 = 3,
    CODING_SPATIAL = 4,
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
// the top mantissa bit with it, "Z" low bits are zero in every word of the block; "T" codes so many
// top bits of a byte, of fp8 those after the sign.
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
    FORM_INT8_T4 = 10,
    FORM_INT8_T5 = 11,
    FORM_INT8_T6 = 12,
    FORM_INT8_T8 = 13,
    FORM_FP8_T5 = 14,
};
constexpr uint32_t N_FORMS = 15;

// Bytes of one raw field in one step of 128 lanes.
constexpr uint32_t P8_BYTES = 128;
constexpr uint32_t F7_BYTES = 112;
constexpr uint32_t F4_BYTES = 64;
constexpr uint32_t F3_BYTES = 48;
constexpr uint32_t F2_BYTES = 32;

// A value is the 16-bit word, the top half of a 32-bit one, or a byte at bits 14 to 7.
constexpr uint32_t BYTE_SHIFT = 7;

struct FieldMap {
    uint8_t unit_bytes;      // w
    uint16_t value_mask;     // bits a value may have
    uint8_t n_escape_lists;  // 1: value = byte << escape_shift; 2: value = high << 8 | low
    uint8_t escape_shift;
    uint16_t top_field;   // bytes a step of the first field: P8 or F7 with the sign; of w = 1 the
                          // only one, or none
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
    {1, 0x7800, 1, BYTE_SHIFT, F4_BYTES, 0, 0},
    {1, 0x7C00, 1, BYTE_SHIFT, F3_BYTES, 0, 0},
    {1, 0x7E00, 1, BYTE_SHIFT, F2_BYTES, 0, 0},
    {1, 0x7F80, 1, BYTE_SHIFT, 0, 0, 0},
    {1, 0x3E00, 1, BYTE_SHIFT, F3_BYTES, 0, 0},
};

// Streams of rans32 and of the spatial coding: 32-bit states in [TOKEN_STATE_LOWER, 2^32), words of
// 16 bits, frequencies that sum to TOKEN_SCALE.
constexpr uint32_t TOKEN_LANES = 32;
constexpr uint32_t TOKEN_SCALE_BITS = 12;
constexpr uint32_t TOKEN_SCALE = 1u << TOKEN_SCALE_BITS;
constexpr uint32_t TOKEN_STATE_LOWER = 1u << 16;
constexpr uint32_t TOKEN_STATES_BYTES = 4 * TOKEN_LANES;

// rans32: a unit is split into a code, which is a symbol of an alphabet or an escape, and raw bits.
enum Rans32Form : uint8_t {
    RANS32_SIGN_CODED = 0,  // the code is the highest bits of the unit
    RANS32_SIGN_RAW = 1,    // the code is the bits below the highest one
};
constexpr uint32_t N_RANS32_FORMS = 2;
constexpr uint32_t MAX_RANS32_TABLES = 16;
constexpr uint32_t MAX_RANS32_CLASS = 15;
constexpr uint32_t MAX_RANS32_RAW_BITS = 56;
constexpr uint32_t MAX_ALPHABET = 256;
// Frequencies are stored as levels, 1 << precision of them to a factor of 2.
constexpr uint32_t MAX_LEVEL_PRECISION = 3;
constexpr uint32_t LEVEL_WEIGHTS[1 << MAX_LEVEL_PRECISION] = {256, 279, 304, 332,
                                                              362, 395, 431, 470};

// spatial: a block is cut into square tiles; each has a predictor, a transform and a frequency
// table. Tile sizes are 1 << MIN_TILE_LOG2 to 1 << MAX_TILE_LOG2.
constexpr uint32_t MIN_TILE_LOG2 = 2;
constexpr uint32_t MAX_TILE_LOG2 = 6;
constexpr uint32_t MAX_TILE_TABLES = 8;

enum Predictor : uint8_t {
    PREDICT_NONE = 0,
    PREDICT_LEFT = 1,
    PREDICT_TOP = 2,
    PREDICT_AVG = 3,
    PREDICT_PLANAR = 4,
    PREDICT_MEDIAN = 5,
};
constexpr uint32_t N_PREDICTORS = 6;

enum Transform : uint8_t {
    TRANSFORM_NONE = 0,
    TRANSFORM_DCT = 1,
    TRANSFORM_ADST = 2,
    TRANSFORM_HADAMARD = 3,
};
constexpr uint32_t N_TRANSFORMS = 4;

// How the units of a block become the signed numbers that are predicted: the form of the block.
enum SpatialForm : uint8_t {
    SPATIAL_SIGNED = 0,
    SPATIAL_UNSIGNED = 1,
    SPATIAL_FLOAT = 2,
};
constexpr uint32_t N_SPATIAL_FORMS = 3;

// Residuals are coded as a token and, for large ones, raw bits: numbers below
// DIRECT_TOKENS are tokens of their own, larger ones share one with all that agree in size and in
// the TOKEN_SUB_BITS bits after the first.
constexpr uint32_t DIRECT_TOKEN_BITS = 4;
constexpr uint32_t DIRECT_TOKENS = 1u << DIRECT_TOKEN_BITS;
constexpr uint32_t TOKEN_SUB_BITS = 2;
constexpr uint32_t N_TOKENS = DIRECT_TOKENS + ((32 - DIRECT_TOKEN_BITS) << TOKEN_SUB_BITS);

// A transform of eight places is nine lifting steps, x[place] += round(sum of factor[j] * x[j] /
// 2^LIFT_BITS), factor[place] being 0 (docs/transforms.md).
constexpr uint32_t TRANSFORM_SIZE = 8;
constexpr uint32_t LIFT_STEPS = TRANSFORM_SIZE + 1;
constexpr uint32_t LIFT_BITS = 12;

struct LiftStep {
    uint8_t place;
    int16_t factor[TRANSFORM_SIZE];
};

constexpr LiftStep LIFTING[N_TRANSFORMS][LIFT_STEPS] = {
    {},
    {
        {2, {2021, 4771, 0, -4827, -6400, 4386, -7957, 452}},
        {1, {150, 0, -1892, -1446, -2172, 134, -1783, -575}},
        {5, {2623, 1940, -1112, -2820, -971, 0, -2658, -1209}},
        {6, {803, -194, 1312, 3005, 3562, -95, 0, 1227}},
        {3, {-1697, 1458, 946, 0, -1449, 3404, -865, 2295}},
        {0, {0, -1031, -669, 2896, 3921, -2407, -3484, 1273}},
        {7, {-3483, -2023, -1312, 1585, 1255, 1071, -2284, 0}},
        {4, {846, 2917, 1892, 34, 0, -729, -883, 2434}},
        {2, {4967, 8011, 0, -4274, -5181, 884, 1223, 6133}},
    },
    {
        {7, {-5782, -739, 6695, 8477, 2347, 6312, -4408, 0}},
        {0, {0, 2232, -2189, -4727, -2997, -4079, 2279, 1779}},
        {5, {-327, 938, 1078, 1125, 1034, 0, -807, -1444}},
        {3, {398, -2213, 1191, 0, -820, 1195, 920, -756}},
        {4, {3713, -1209, -2869, 2207, 0, 100, -2646, 328}},
        {6, {1128, -176, 554, -901, 2364, 1708, 0, 1147}},
        {1, {-3646, 0, -745, 163, -645, -4010, 2038, -1419}},
        {2, {-3319, -965, 0, -1526, 987, -2455, 2531, -1978}},
        {7, {5385, 5281, 4798, 3914, 1913, 7855, -7406, 0}},
    },
    {
        {1, {7489, 0, -10300, 703, 7489, 8895, -2690, 9477}},
        {4, {4096, -1448, -5090, 1697, 0, 1697, -2399, 4799}},
        {5, {2896, -1024, -703, -1697, 1200, 0, -1697, 3393}},
        {6, {-4944, 724, 497, -1697, 3248, 2896, 0, -2399}},
        {3, {3496, -512, -3248, 0, -2296, 2048, 2896, -1200}},
        {7, {-848, -724, 1200, 2399, 848, -1200, 0, 0}},
        {2, {1200, 1024, 0, 703, -1200, -2399, 0, 1697}},
        {0, {0, -1448, 1697, -994, 1697, -703, 4096, -2399}},
        {1, {7489, 0, -8895, -1285, -8895, -2108, -7489, 10882}},
    },
};

}  // namespace wcodec
