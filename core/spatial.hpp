// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic of the spatial coding: tokens, reversible transforms of 8 x 8 numbers, prediction
// within a block. Pure functions without allocation; docs/transforms.md has the mathematics.
//
// Everything is exact for every input: residuals are taken modulo 2^(8 w) and lifting modulo 2^32,
// so that what a step adds the inverse step subtracts, whether or not a number wrapped round.
#pragma once

#include <cstddef>
#include <cstdint>

#include "stream_format.hpp"

namespace wcodec {

// ---- tokens ----

static constexpr uint32_t zigzag(int32_t residual) {
    return (static_cast<uint32_t>(residual) << 1) ^ static_cast<uint32_t>(residual >> 31);
}

static constexpr int32_t unzigzag(uint32_t number) {
    return static_cast<int32_t>((number >> 1) ^ (0 - (number & 1)));
}

static constexpr uint32_t token_of(uint32_t number) {
    if (number < DIRECT_TOKENS) return number;
    const uint32_t top = 31 - static_cast<uint32_t>(__builtin_clz(number));
    const uint32_t sub = number >> (top - TOKEN_SUB_BITS) & ((1u << TOKEN_SUB_BITS) - 1);
    return DIRECT_TOKENS + ((top - DIRECT_TOKEN_BITS) << TOKEN_SUB_BITS) + sub;
}

// Raw bits behind a token (below N_TOKENS): 0 to 29.
static constexpr uint32_t token_raw_bits(uint32_t token) {
    if (token < DIRECT_TOKENS) return 0;
    return ((token - DIRECT_TOKENS) >> TOKEN_SUB_BITS) + DIRECT_TOKEN_BITS - TOKEN_SUB_BITS;
}

// The smallest number of a token; its raw bits are added to it.
static constexpr uint32_t token_base(uint32_t token) {
    if (token < DIRECT_TOKENS) return token;
    const uint32_t sub = (token - DIRECT_TOKENS) & ((1u << TOKEN_SUB_BITS) - 1);
    return ((1u << TOKEN_SUB_BITS) | sub) << token_raw_bits(token);
}

// ---- tiles ----

// Where a tile lies in its block, clipped to it. `image` is the block, contiguous, of signed units.
struct Tile {
    uint32_t row;
    uint32_t col;
    uint32_t rows;
    uint32_t cols;
};

static constexpr uint32_t tiles_along(uint32_t size, uint32_t tile_log2) {
    return (size + (1u << tile_log2) - 1) >> tile_log2;
}

// The t-th tile of a block of rows x cols units, row by row.
static inline Tile tile_at(uint32_t t, uint32_t rows, uint32_t cols, uint32_t tile_log2) {
    const uint32_t across = tiles_along(cols, tile_log2);
    const uint32_t row = t / across << tile_log2;
    const uint32_t col = t % across << tile_log2;
    const uint32_t size = 1u << tile_log2;
    return {row, col, rows - row < size ? rows - row : size, cols - col < size ? cols - col : size};
}

// Units to signed numbers of the same width, in place: w = 1, 2 or 4 bytes; form < N_SPATIAL_FORMS.
// Each map is its own inverse.
void map_units(SpatialForm form, uint32_t w, uint8_t* units, size_t n);

// Residuals of a tile, rows * cols numbers row by row, from the image of cols_of_image columns.
void predict_tile(Predictor predictor, uint32_t w, const uint8_t* image, uint32_t cols_of_image,
                  const Tile& tile, int32_t* residuals);

// The inverse: write a tile of the image. Reads what is above and to the left of it in the block.
void restore_tile(Predictor predictor, uint32_t w, const int32_t* residuals, uint8_t* image,
                  uint32_t cols_of_image, const Tile& tile);

// Transform each whole 8 x 8 part of a tile's residuals in place; what is left at the right and
// lower edge stays. transform < N_TRANSFORMS.
void transform_tile(Transform transform, int32_t* residuals, const Tile& tile);
void inverse_transform_tile(Transform transform, int32_t* residuals, const Tile& tile);

}  // namespace wcodec
