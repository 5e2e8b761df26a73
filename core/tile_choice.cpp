// SPDX-License-Identifier: Apache-2.0
//
// Two passes. The first looks at every tile by itself and keeps the few modes (predictor and
// transform) that make its residuals smallest. The second finds 1, 2, 4 or 8 frequency tables by
// alternation: tables from the tiles that use them, then for each tile the cheapest mode and table.
#include "tile_choice.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "bytes.hpp"
#include "log2.hpp"

namespace wcodec {
namespace {

constexpr uint32_t N_CANDIDATES = 4;  // modes kept of a tile
constexpr uint32_t N_ROUNDS = 4;
constexpr uint32_t TABLE_ENTRY_COST = 10 * TILE_COST_UNIT;  // of a symbol in a stored table
constexpr uint32_t MAX_TILE_UNITS = 1u << (2 * MAX_TILE_LOG2);
constexpr uint32_t N_MODES = N_PREDICTORS * N_TRANSFORMS;

// A first guess at the cost of a token, its raw bits included: log2(1 + number), of the middle of
// the numbers that share it.
constexpr std::array<uint32_t, N_TOKENS> make_guess() {
    std::array<uint32_t, N_TOKENS> guess{};
    for (uint32_t token = 0; token < N_TOKENS; ++token) {
        const uint64_t base = token_base(token);
        const uint64_t middle = base + ((uint64_t{1} << token_raw_bits(token)) - 1) / 2;
        guess[token] = log2_q8(static_cast<uint32_t>(std::min<uint64_t>(middle + 1, UINT32_MAX)));
    }
    return guess;
}
constexpr std::array<uint32_t, N_TOKENS> GUESS = make_guess();

struct Candidate {
    uint8_t mode;  // tile_byte with table 0
    uint32_t guess;
    uint32_t raw_bits;
};

// The costs of coding with counts, of tokens or of tile bytes: -log2 of their share, where what has
// not occurred is given a little.
template <size_t n>
void costs_of(const uint32_t* counts, uint32_t* costs) {
    uint64_t total = n;
    for (size_t i = 0; i < n; ++i) total += uint64_t{16} * counts[i];
    const uint32_t whole = log2_q8(static_cast<uint32_t>(total));
    for (size_t i = 0; i < n; ++i) costs[i] = whole - log2_q8(16 * counts[i] + 1);
}

template <size_t n>
uint64_t cost_of_counts(const uint32_t* counts, uint32_t entry_cost = TABLE_ENTRY_COST) {
    uint32_t total = 0;
    uint64_t cost = 0;
    for (size_t i = 0; i < n; ++i) total += counts[i];
    for (size_t i = 0; i < n; ++i)
        if (counts[i] != 0)
            cost += uint64_t{counts[i]} * (log2_q8(total) - log2_q8(counts[i])) + entry_cost;
    return cost;
}

// The tokens of a tile in a mode; returns the sum of their guesses.
uint32_t tokens_of_tile(const uint8_t* image, uint32_t cols, uint32_t w, const Tile& tile,
                        uint8_t mode, uint8_t* tokens, uint32_t& raw_bits) {
    int32_t residuals[MAX_TILE_UNITS];
    predict_tile(tile_predictor(mode), w, image, cols, tile, residuals);
    transform_tile(tile_transform(mode), residuals, tile);
    const uint32_t n = tile.rows * tile.cols;
    uint32_t guess = 0;
    raw_bits = 0;
    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t token = token_of(zigzag(residuals[i]));
        tokens[i] = static_cast<uint8_t>(token);
        guess += GUESS[token];
        raw_bits += token_raw_bits(token);
    }
    return guess;
}

// The modes of the sets; transforms only where a tile has room for one.
uint32_t list_modes(const SpatialOptions& options, uint8_t* modes) {
    uint32_t n = 0;
    const bool room = (1u << options.tile_log2) >= TRANSFORM_SIZE;
    for (uint32_t t = 0; t < N_TRANSFORMS; ++t)
        for (uint32_t p = 0; p < N_PREDICTORS; ++p)
            if ((options.predictor_set >> p & 1) && (options.transform_set >> t & 1) &&
                (t == TRANSFORM_NONE || room))
                modes[n++] = tile_byte(p, t, 0);
    if (n == 0) modes[n++] = 0;  // transforms alone were asked for, of tiles without room
    return n;
}

struct Scratch {
    uint8_t* tokens;        // N_CANDIDATES for each unit: those of a tile together, mode by mode
    Candidate* candidates;  // N_CANDIDATES for each tile
    uint32_t* order;        // of tiles, by their guess
    uint8_t* now;           // tile bytes of the trial
    uint8_t* best;
    uint8_t* picked;  // candidate of each tile in the trial
    uint8_t* best_picked;

    Scratch(uint8_t* memory, uint64_t n_units, uint32_t n_tiles) {
        candidates = reinterpret_cast<Candidate*>(memory);
        order = reinterpret_cast<uint32_t*>(candidates + size_t{N_CANDIDATES} * n_tiles);
        tokens = reinterpret_cast<uint8_t*>(order + n_tiles);
        now = tokens + N_CANDIDATES * n_units;
        best = now + n_tiles;
        picked = best + n_tiles;
        best_picked = picked + n_tiles;
    }
};

struct Search {
    const uint8_t* image;
    uint32_t rows, cols, w;
    const SpatialOptions& options;
    uint32_t n_tiles;
    uint32_t n_candidates;
    Scratch scratch;

    Tile tile(uint32_t t) const { return tile_at(t, rows, cols, options.tile_log2); }

    // First pass: the N_CANDIDATES modes with the lowest guess, in that order.
    void find_candidates() {
        uint8_t modes[N_MODES];
        const uint32_t n_modes = list_modes(options, modes);
        n_candidates = std::min(n_modes, N_CANDIDATES);
        uint8_t trial[MAX_TILE_UNITS];
        uint8_t* tokens = scratch.tokens;
        for (uint32_t t = 0; t < n_tiles; ++t) {
            const Tile place = tile(t);
            const uint32_t n = place.rows * place.cols;
            Candidate* kept = scratch.candidates + size_t{N_CANDIDATES} * t;
            uint8_t slot[N_CANDIDATES];  // kept[i] has its tokens in this part
            uint32_t n_kept = 0;
            for (uint32_t m = 0; m < n_modes; ++m) {
                uint32_t raw_bits;
                const uint32_t guess =
                    tokens_of_tile(image, cols, w, place, modes[m], trial, raw_bits);
                uint32_t at = n_kept;
                while (at > 0 && guess < kept[at - 1].guess) --at;
                if (at == n_candidates) continue;
                const uint8_t free =
                    n_kept < n_candidates ? static_cast<uint8_t>(n_kept++) : slot[n_candidates - 1];
                for (uint32_t i = n_kept - 1; i > at; --i) {
                    kept[i] = kept[i - 1];
                    slot[i] = slot[i - 1];
                }
                kept[at] = {modes[m], guess, raw_bits};
                slot[at] = free;
                std::memcpy(tokens + size_t{free} * n, trial, n);
            }
            sort_tokens(tokens, n, slot);
            tokens += size_t{N_CANDIDATES} * n;
        }
    }

    // Bring the parts of a tile's tokens into the order of its candidates.
    void sort_tokens(uint8_t* tokens, uint32_t n, uint8_t* slot) const {
        for (uint32_t i = 0; i < n_candidates; ++i)
            while (slot[i] != i) {
                const uint32_t other = slot[i];
                std::swap_ranges(tokens + size_t{i} * n, tokens + size_t{i} * n + n,
                                 tokens + size_t{other} * n);
                // The part that was at i is at `other` now.
                *std::find(slot, slot + n_candidates, static_cast<uint8_t>(i)) =
                    static_cast<uint8_t>(other);
                slot[i] = static_cast<uint8_t>(i);
            }
    }

    void count(const uint8_t* tiles, const uint8_t* picked, uint32_t (*counts)[N_TOKENS],
               uint32_t* tile_counts, uint64_t& raw_bits) const {
        std::memset(counts, 0, MAX_TILE_TABLES * sizeof *counts);
        std::memset(tile_counts, 0, 256 * sizeof *tile_counts);
        raw_bits = 0;
        const uint8_t* tokens = scratch.tokens;
        for (uint32_t t = 0; t < n_tiles; ++t) {
            const Tile place = tile(t);
            const uint32_t n = place.rows * place.cols;
            const uint8_t* own = tokens + size_t{picked[t]} * n;
            uint32_t* table = counts[tile_table(tiles[t])];
            for (uint32_t i = 0; i < n; ++i) ++table[own[i]];
            ++tile_counts[tiles[t]];
            raw_bits += scratch.candidates[size_t{N_CANDIDATES} * t + picked[t]].raw_bits;
            tokens += size_t{N_CANDIDATES} * n;
        }
    }

    static uint64_t cost(const uint32_t (*counts)[N_TOKENS], const uint32_t* tile_counts,
                         uint64_t raw_bits) {
        uint64_t cost = raw_bits * TILE_COST_UNIT + cost_of_counts<256>(tile_counts);
        for (uint32_t k = 0; k < MAX_TILE_TABLES; ++k) cost += cost_of_counts<N_TOKENS>(counts[k]);
        return cost;
    }

    // For each tile the cheapest candidate and table, by the counts of the round before.
    void assign(uint32_t n_tables, const uint32_t (*counts)[N_TOKENS],
                const uint32_t* tile_counts) {
        uint32_t token_costs[MAX_TILE_TABLES][N_TOKENS];
        uint32_t tile_costs[256];
        for (uint32_t k = 0; k < n_tables; ++k) costs_of<N_TOKENS>(counts[k], token_costs[k]);
        costs_of<256>(tile_counts, tile_costs);
        const uint8_t* tokens = scratch.tokens;
        for (uint32_t t = 0; t < n_tiles; ++t) {
            const Tile place = tile(t);
            const uint32_t n = place.rows * place.cols;
            uint64_t lowest = UINT64_MAX;
            for (uint32_t i = 0; i < n_candidates; ++i, tokens += n) {
                const Candidate& candidate = scratch.candidates[size_t{N_CANDIDATES} * t + i];
                for (uint32_t k = 0; k < n_tables; ++k) {
                    const uint8_t tile = static_cast<uint8_t>(candidate.mode | k << 5);
                    uint32_t sum = 0;
                    for (uint32_t u = 0; u < n; ++u) sum += token_costs[k][tokens[u]];
                    const uint64_t cost =
                        sum + tile_costs[tile] + candidate.raw_bits * TILE_COST_UNIT;
                    if (cost >= lowest) continue;
                    lowest = cost;
                    scratch.now[t] = tile;
                    scratch.picked[t] = static_cast<uint8_t>(i);
                }
            }
            tokens += size_t{N_CANDIDATES - n_candidates} * n;
        }
    }

    // Tables numbered without gaps: in the order of their first tile.
    uint32_t renumber() {
        uint8_t number[MAX_TILE_TABLES];
        std::memset(number, 255, sizeof number);
        uint8_t n_tables = 0;
        for (uint32_t t = 0; t < n_tiles; ++t) {
            uint8_t& found = number[tile_table(scratch.best[t])];
            if (found == 255) found = n_tables++;
            scratch.best[t] = static_cast<uint8_t>((scratch.best[t] & 31) | found << 5);
        }
        return n_tables;
    }
};

}  // namespace

size_t tile_choice_scratch_bytes(uint64_t n_units, uint32_t n_tiles) {
    return align_up(N_CANDIDATES * n_units +
                        n_tiles * (N_CANDIDATES * sizeof(Candidate) + sizeof(uint32_t) + 4),
                    64);
}

void choose_tiles(const uint8_t* image, uint32_t rows, uint32_t cols, uint32_t w,
                  const SpatialOptions& options, uint8_t* scratch, TileChoice& choice) {
    const uint32_t n_tiles =
        tiles_along(rows, options.tile_log2) * tiles_along(cols, options.tile_log2);
    Search search{image,   rows,    cols, w,
                  options, n_tiles, 0,    Scratch(scratch, uint64_t{rows} * cols, n_tiles)};
    search.find_candidates();

    // Tiles from the smallest residuals a unit to the largest; equal ones in their own order.
    const Candidate* candidates = search.scratch.candidates;
    uint32_t* order = search.scratch.order;
    for (uint32_t t = 0; t < n_tiles; ++t) order[t] = t;
    const auto key = [&](uint32_t t) {
        const Tile tile = search.tile(t);
        return candidates[size_t{N_CANDIDATES} * t].guess / (tile.rows * tile.cols);
    };
    std::sort(order, order + n_tiles, [&](uint32_t a, uint32_t b) {
        const uint32_t of_a = key(a), of_b = key(b);
        return of_a != of_b ? of_a < of_b : a < b;
    });

    uint32_t counts[MAX_TILE_TABLES][N_TOKENS];
    uint32_t tile_counts[256];
    choice.cost = UINT64_MAX;
    for (uint32_t n_tables = 1; n_tables <= MAX_TILE_TABLES; n_tables *= 2) {
        if (n_tables > n_tiles) break;
        for (uint32_t i = 0; i < n_tiles; ++i) {
            const uint32_t table = static_cast<uint32_t>(uint64_t{i} * n_tables / n_tiles);
            const uint8_t mode = candidates[size_t{N_CANDIDATES} * order[i]].mode;
            search.scratch.now[order[i]] = static_cast<uint8_t>(mode | table << 5);
            search.scratch.picked[order[i]] = 0;
        }
        uint64_t raw_bits;
        for (uint32_t round = 0; round < N_ROUNDS; ++round) {
            search.count(search.scratch.now, search.scratch.picked, counts, tile_counts, raw_bits);
            search.assign(n_tables, counts, tile_counts);
        }
        search.count(search.scratch.now, search.scratch.picked, counts, tile_counts, raw_bits);
        const uint64_t cost = Search::cost(counts, tile_counts, raw_bits);
        if (cost >= choice.cost) continue;
        choice.cost = cost;
        std::memcpy(search.scratch.best, search.scratch.now, n_tiles);
        std::memcpy(search.scratch.best_picked, search.scratch.picked, n_tiles);
    }

    choice.n_tables = search.renumber();
    search.count(search.scratch.best, search.scratch.best_picked, choice.counts, tile_counts,
                 choice.raw_bits);
    std::memcpy(choice.tiles, search.scratch.best, n_tiles);
    const uint8_t* from = search.scratch.tokens;
    uint8_t* to = choice.tokens;
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const Tile tile = search.tile(t);
        const uint32_t n = tile.rows * tile.cols;
        std::memcpy(to, from + size_t{search.scratch.best_picked[t]} * n, n);
        from += size_t{N_CANDIDATES} * n;
        to += n;
    }
}

SampleCosts sample_tiles(const uint8_t* image, uint32_t rows, uint32_t cols, uint32_t w,
                         const SpatialOptions& options, uint32_t n_tiles) {
    const uint32_t all =
        tiles_along(rows, options.tile_log2) * tiles_along(cols, options.tile_log2);
    n_tiles = std::min(n_tiles, all);
    const auto sampled = [&](uint32_t i) {
        const uint32_t t = static_cast<uint32_t>((2 * uint64_t{i} + 1) * all / (2 * n_tiles));
        return tile_at(t, rows, cols, options.tile_log2);
    };
    // What a mode costs; the tables are left out, being large only beside so small a sample.
    const auto cost_of_mode = [&](uint8_t mode) {
        uint8_t tokens[MAX_TILE_UNITS];
        uint32_t counts[N_TOKENS] = {};
        uint64_t cost = 0;
        for (uint32_t i = 0; i < n_tiles; ++i) {
            const Tile tile = sampled(i);
            uint32_t raw_bits;
            tokens_of_tile(image, cols, w, tile, mode, tokens, raw_bits);
            for (uint32_t u = 0; u < tile.rows * tile.cols; ++u) ++counts[tokens[u]];
            cost += raw_bits * TILE_COST_UNIT;
        }
        return cost + cost_of_counts<N_TOKENS>(counts, 0);
    };
    // Bytes have a cheaper way without modelling: a symbol each.
    const auto cost_of_bytes = [&] {
        uint32_t counts[256] = {};
        for (uint32_t i = 0; i < n_tiles; ++i) {
            const Tile tile = sampled(i);
            for (uint32_t r = 0; r < tile.rows; ++r)
                for (uint32_t c = 0; c < tile.cols; ++c)
                    ++counts[image[size_t(tile.row + r) * cols + tile.col + c]];
        }
        return cost_of_counts<256>(counts, 0);
    };

    uint8_t modes[N_MODES];
    const uint32_t n_modes = list_modes(options, modes);
    SampleCosts costs{cost_of_mode(tile_byte(PREDICT_NONE, TRANSFORM_NONE, 0)), UINT64_MAX, 0};
    for (uint32_t i = 0; i < n_tiles; ++i) costs.n_units += sampled(i).rows * sampled(i).cols;
    if (w == 1) costs.none = std::min(costs.none, cost_of_bytes());
    for (uint32_t m = 0; m < n_modes; ++m) {
        // Both at once pays only where one of them does.
        const bool predicts = tile_predictor(modes[m]) != PREDICT_NONE;
        if (predicts && tile_transform(modes[m]) != TRANSFORM_NONE) continue;
        costs.best = std::min(costs.best, cost_of_mode(modes[m]));
    }
    return costs;
}

}  // namespace wcodec
