// SPDX-License-Identifier: Apache-2.0
//
// What the encoder of the spatial coding takes for each tile: predictor, transform and frequency
// table, by integer costs. The decoder knows nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spatial.hpp"

namespace wcodec {

struct SpatialOptions {
    SpatialForm form;
    uint32_t tile_log2;
    uint32_t predictor_set;  // bit p: predictor p may be used; not 0
    uint32_t transform_set;  // bit t: transform t may be used; not 0
};

// A tile as it is stored: predictor | transform << 3 | table << 5.
static inline uint8_t tile_byte(uint32_t predictor, uint32_t transform, uint32_t table) {
    return static_cast<uint8_t>(predictor | transform << 3 | table << 5);
}
static inline Predictor tile_predictor(uint8_t tile) { return static_cast<Predictor>(tile & 7); }
static inline Transform tile_transform(uint8_t tile) {
    return static_cast<Transform>(tile >> 3 & 3);
}
static inline uint32_t tile_table(uint8_t tile) { return tile >> 5; }

struct TileChoice {
    uint8_t* tiles;   // a tile_byte each
    uint8_t* tokens;  // of the units, tile by tile
    uint32_t n_tables;
    uint32_t counts[MAX_TILE_TABLES][N_TOKENS];
    uint64_t raw_bits;
    uint64_t cost;  // of everything, in 1 / TILE_COST_UNIT bits
};
constexpr uint64_t TILE_COST_UNIT = 256;

size_t tile_choice_scratch_bytes(uint64_t n_units, uint32_t n_tiles);

// Choose for each tile of a mapped image. choice.tiles and choice.tokens are the caller's.
void choose_tiles(const uint8_t* image, uint32_t rows, uint32_t cols, uint32_t w,
                  const SpatialOptions& options, uint8_t* scratch, TileChoice& choice);

// Costs of a sample of at most n_tiles tiles of a mapped image, spread over it, with no modelling
// and with the one best predictor and transform for all of them; in 1 / TILE_COST_UNIT bits.
struct SampleCosts {
    uint64_t none;
    uint64_t best;
    uint64_t n_units;
};
SampleCosts sample_tiles(const uint8_t* image, uint32_t rows, uint32_t cols, uint32_t w,
                         const SpatialOptions& options, uint32_t n_tiles);

}  // namespace wcodec
