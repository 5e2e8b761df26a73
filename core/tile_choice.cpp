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

// How often a tile has a token.
struct TokenCount {
    uint16_t token;
    uint16_t count;
};

struct Candidate {
    uint8_t mode;  // tile_byte with table 0
    uint8_t slot;  // which part of the tile's token counts is its own
    uint8_t n_counts;
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

// Tokens of the small numbers, which most are.
constexpr std::array<uint8_t, 1024> make_small_tokens() {
    std::array<uint8_t, 1024> tokens{};
    for (uint32_t number = 0; number < tokens.size(); ++number)
        tokens[number] = static_cast<uint8_t>(token_of(number));
    return tokens;
}
constexpr std::array<uint8_t, 1024> SMALL_TOKENS = make_small_tokens();

void tokens_of(const int32_t* residuals, uint32_t n, uint8_t* tokens) {
    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t number = zigzag(residuals[i]);
        tokens[i] = number < SMALL_TOKENS.size() ? SMALL_TOKENS[number]
                                                 : static_cast<uint8_t>(token_of(number));
    }
}

// The tokens of a tile in a mode.
void tokens_of_tile(const uint8_t* image, uint32_t cols, uint32_t w, const Tile& tile, uint8_t mode,
                    uint8_t* tokens) {
    int32_t residuals[MAX_TILE_UNITS];
    predict_tile(tile_predictor(mode), w, image, cols, tile, residuals);
    transform_tile(tile_transform(mode), residuals, tile);
    tokens_of(residuals, tile.rows * tile.cols, tokens);
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

constexpr uint32_t MAX_PREDICTORS_TRANSFORMED = 3;

struct Scratch {
    Candidate* candidates;  // N_CANDIDATES for each tile
    uint32_t* order;        // of tiles, by their guess
    TokenCount* counts;     // N_CANDIDATES for each unit
    uint8_t* now;           // tile bytes of the trial
    uint8_t* best;
    uint8_t* picked;  // candidate of each tile in the trial
    uint8_t* best_picked;

    Scratch(uint8_t* memory, uint64_t n_units, uint32_t n_tiles) {
        candidates = reinterpret_cast<Candidate*>(memory);
        order = reinterpret_cast<uint32_t*>(candidates + size_t{N_CANDIDATES} * n_tiles);
        counts = reinterpret_cast<TokenCount*>(order + n_tiles);
        now = reinterpret_cast<uint8_t*>(counts + N_CANDIDATES * n_units);
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

    // A tile has no more distinct tokens than units, so its parts begin at its first unit.
    TokenCount* counts_of(uint32_t t, const Candidate& candidate) const {
        const Tile place = tile(t);
        const size_t first_unit = size_t{place.row} * cols + size_t{place.col} * place.rows;
        const size_t part = size_t{candidate.slot} * place.rows * place.cols;
        return scratch.counts + N_CANDIDATES * first_unit + part;
    }

    // The candidates of one tile while they are found, lowest guess first.
    struct Kept {
        Candidate* candidates;
        uint32_t n = 0;
        uint32_t most = N_CANDIDATES;

        bool all_zero() const { return n > 0 && candidates[0].guess == 0; }
    };

    void consider(uint32_t t, Kept& kept, uint8_t mode, const int32_t* residuals, uint32_t n,
                  uint32_t& guess) {
        uint8_t tokens[MAX_TILE_UNITS];
        tokens_of(residuals, n, tokens);
        uint32_t counts[N_TOKENS] = {};
        for (uint32_t i = 0; i < n; ++i) ++counts[tokens[i]];
        Candidate found{mode, 0, 0, 0, 0};
        TokenCount pairs[N_TOKENS];
        for (uint32_t token = 0; token < N_TOKENS; ++token) {
            if (counts[token] == 0) continue;
            found.guess += counts[token] * GUESS[token];
            found.raw_bits += counts[token] * token_raw_bits(token);
            pairs[found.n_counts++] = {static_cast<uint16_t>(token),
                                       static_cast<uint16_t>(counts[token])};
        }
        guess = found.guess;
        uint32_t at = kept.n;
        while (at > 0 && found.guess < kept.candidates[at - 1].guess) --at;
        if (at == kept.most) return;
        found.slot = kept.n < kept.most ? static_cast<uint8_t>(kept.n++)
                                        : kept.candidates[kept.most - 1].slot;
        for (uint32_t i = kept.n - 1; i > at; --i) kept.candidates[i] = kept.candidates[i - 1];
        kept.candidates[at] = found;
        std::copy(pairs, pairs + found.n_counts, counts_of(t, found));
    }

    // First pass: the modes with the lowest guess. Transforms are tried on the residuals of the
    // predictors that are best without one, and of none.
    void find_candidates() {
        uint8_t modes[N_MODES];
        n_candidates = std::min(list_modes(options, modes), N_CANDIDATES);
        const bool room = (1u << options.tile_log2) >= TRANSFORM_SIZE;
        const uint32_t transforms = room ? options.transform_set & ~1u : 0;
        const bool plain = (options.transform_set & 1) || transforms == 0;
        int32_t residuals[N_PREDICTORS][MAX_TILE_UNITS];
        for (uint32_t t = 0; t < n_tiles; ++t) {
            const Tile place = tile(t);
            const uint32_t n = place.rows * place.cols;
            Kept kept{scratch.candidates + size_t{N_CANDIDATES} * t};
            kept.most = n_candidates;
            uint32_t guesses[N_PREDICTORS];
            std::fill(guesses, guesses + N_PREDICTORS, UINT32_MAX);
            for (uint32_t p = 0; p < N_PREDICTORS; ++p) {
                if (!(options.predictor_set >> p & 1)) continue;
                predict_tile(static_cast<Predictor>(p), w, image, cols, place, residuals[p]);
                if (plain)
                    consider(t, kept, tile_byte(p, 0, 0), residuals[p], n, guesses[p]);
                else
                    guesses[p] = 0;
            }
            for (uint32_t tried = 0; tried < MAX_PREDICTORS_TRANSFORMED; ++tried) {
                if (transforms == 0 || kept.all_zero()) break;
                const uint32_t p = next_predictor(guesses, tried);
                if (guesses[p] == UINT32_MAX) break;
                guesses[p] = UINT32_MAX;
                for (uint32_t f = 1; f < N_TRANSFORMS; ++f) {
                    if (!(transforms >> f & 1)) continue;
                    int32_t coefficients[MAX_TILE_UNITS];
                    std::copy(residuals[p], residuals[p] + n, coefficients);
                    transform_tile(static_cast<Transform>(f), coefficients, place);
                    uint32_t guess;
                    consider(t, kept, tile_byte(p, f, 0), coefficients, n, guess);
                }
            }
            // What was not tried leaves room: the best stands for it.
            while (kept.n < n_candidates) {
                kept.candidates[kept.n] = kept.candidates[0];
                ++kept.n;
            }
        }
    }

    // `none` first where it is there, then from the lowest guess up.
    static uint32_t next_predictor(const uint32_t* guesses, uint32_t tried) {
        if (tried == 0 && guesses[PREDICT_NONE] != UINT32_MAX) return PREDICT_NONE;
        return static_cast<uint32_t>(std::min_element(guesses, guesses + N_PREDICTORS) - guesses);
    }

    const Candidate& candidate(uint32_t t, uint32_t i) const {
        return scratch.candidates[size_t{N_CANDIDATES} * t + i];
    }

    void count(const uint8_t* tiles, const uint8_t* picked, uint32_t (*counts)[N_TOKENS],
               uint32_t* tile_counts, uint64_t& raw_bits) const {
        std::memset(counts, 0, MAX_TILE_TABLES * sizeof *counts);
        std::memset(tile_counts, 0, 256 * sizeof *tile_counts);
        raw_bits = 0;
        for (uint32_t t = 0; t < n_tiles; ++t) {
            const Candidate& own = candidate(t, picked[t]);
            const TokenCount* pairs = counts_of(t, own);
            uint32_t* table = counts[tile_table(tiles[t])];
            for (uint32_t i = 0; i < own.n_counts; ++i) table[pairs[i].token] += pairs[i].count;
            ++tile_counts[tiles[t]];
            raw_bits += own.raw_bits;
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
        for (uint32_t t = 0; t < n_tiles; ++t) {
            uint64_t lowest = UINT64_MAX;
            for (uint32_t i = 0; i < n_candidates; ++i) {
                const Candidate& own = candidate(t, i);
                const TokenCount* pairs = counts_of(t, own);
                for (uint32_t k = 0; k < n_tables; ++k) {
                    const uint8_t tile = static_cast<uint8_t>(own.mode | k << 5);
                    uint64_t cost = tile_costs[tile] + own.raw_bits * TILE_COST_UNIT;
                    for (uint32_t j = 0; j < own.n_counts; ++j)
                        cost += token_costs[k][pairs[j].token] * pairs[j].count;
                    if (cost >= lowest) continue;
                    lowest = cost;
                    scratch.now[t] = tile;
                    scratch.picked[t] = static_cast<uint8_t>(i);
                }
            }
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
    return align_up(N_CANDIDATES * n_units * sizeof(TokenCount) +
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
    uint8_t* to = choice.tokens;
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const Tile tile = search.tile(t);
        tokens_of_tile(image, cols, w, tile, choice.tiles[t], to);
        to += tile.rows * tile.cols;
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
            tokens_of_tile(image, cols, w, tile, mode, tokens);
            for (uint32_t u = 0; u < tile.rows * tile.cols; ++u) ++counts[tokens[u]];
        }
        for (uint32_t token = 0; token < N_TOKENS; ++token)
            cost += counts[token] * token_raw_bits(token) * TILE_COST_UNIT;
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
