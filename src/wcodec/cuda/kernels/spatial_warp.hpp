// SPDX-License-Identifier: Apache-2.0
//
// The spatial decoder of a warp (docs/format.md section 15): one warp decodes one block, in two
// passes over its place in the output, which is all the memory that it needs beside 11 KiB.
//
// 1. Tokens, 32 at a time, become residuals in a ring in shared memory. A stripe is up to eight
//    rows of a tile: when all of its residuals are there, its transform is undone, a thread for
//    each column of its squares and then for each row, and the low bytes of the residuals go into
//    the output, where the units will be.
// 2. A unit needs those to its left and above, so the rows are restored as a wave: thread t follows
//    thread t - 1 a group of four units behind, in the row below, and gets what is above by a
//    shuffle. After its row it goes on 32 rows further down, without a wait if rows have 128 units
//    or more; a block of r < 32 rows keeps only r threads busy.
//
// Instructions of the warp for 32 units, from the loops of the machine code for sm_90 (nothing was
// timed): 69 of the token, 19 where tokens have raw bits, 20 of the stripe (in tiles of 4 x 4 about
// 100), 38 of the wave; 34 of a transform in tiles of 32 x 32 or more, 68 in 16 x 16, 136 in 8 x 8.
// So most blocks take about twice as long as one of rans32.
//
// The host has checked the payload and laid out its parameters (gpu_descriptors.hpp). What it has
// not looked at, the stream and the raw bits, is not trusted: whatever the bytes are, loads stay
// inside the payload and the block's units, stores inside the latter, and the number of steps is
// the descriptor's.
#pragma once

#include "gpu_descriptors.hpp"
#include "stream_format.hpp"
#include "token_warp.hpp"
#include "warp.hpp"

namespace wcodec {

// ---- One number ---------------------------------------------------------------------------------

WCODEC_INLINE uint32_t raw_bits_of_token(uint32_t token) {
    if (token < DIRECT_TOKENS) return 0;
    return ((token - DIRECT_TOKENS) >> TOKEN_SUB_BITS) + DIRECT_TOKEN_BITS - TOKEN_SUB_BITS;
}

// The residual, modulo 2^32, of a token and its raw bits.
WCODEC_INLINE uint32_t residual_of(uint32_t token, uint32_t raw) {
    uint32_t number = token;
    if (token >= DIRECT_TOKENS) {
        const uint32_t sub = (token - DIRECT_TOKENS) & ((1u << TOKEN_SUB_BITS) - 1);
        number = (((1u << TOKEN_SUB_BITS) | sub) << raw_bits_of_token(token)) + raw;
    }
    return (number >> 1) ^ (0 - (number & 1));
}

// Undo a transform of eight numbers: its steps from this one to the first.
template <uint32_t TRANSFORM, uint32_t STEP = LIFT_STEPS - 1>
WCODEC_INLINE void undo_steps(uint32_t (&x)[TRANSFORM_SIZE]) {
    constexpr LiftStep step = LIFTING[TRANSFORM][STEP];
    uint32_t sum = 1u << (LIFT_BITS - 1);
    WCODEC_UNROLL
    for (uint32_t j = 0; j < TRANSFORM_SIZE; ++j) sum += uint32_t(int32_t(step.factor[j])) * x[j];
    x[step.place] -= uint32_t(int32_t(sum) >> LIFT_BITS);
    if constexpr (STEP > 0) undo_steps<TRANSFORM, STEP - 1>(x);
}

// The expected value modulo 2^(8 w), of numbers of w bytes.
template <uint32_t UNIT_BYTES>
WCODEC_INLINE uint32_t expected(uint32_t predictor, int32_t left, int32_t top, int32_t corner) {
    const int32_t low = left < top ? left : top;
    const int32_t high = left < top ? top : left;
    const uint32_t planar = uint32_t(left) + uint32_t(top) - uint32_t(corner);
    int32_t median;  // planar, kept between low and high
    if constexpr (UNIT_BYTES == 4) {
        const int64_t exact = int64_t(left) + top - corner;
        median = exact < low ? low : exact > high ? high : int32_t(planar);
    } else {
        median = int32_t(planar) < low ? low : int32_t(planar) > high ? high : int32_t(planar);
    }
    uint32_t found = 0;
    if (predictor == PREDICT_LEFT) found = uint32_t(left);
    if (predictor == PREDICT_TOP) found = uint32_t(top);
    if (predictor == PREDICT_AVG) found = uint32_t((left & top) + ((left ^ top) >> 1));
    if (predictor == PREDICT_PLANAR) found = planar;
    if (predictor == PREDICT_MEDIAN) found = uint32_t(median);
    return found;
}

// Four units or numbers side by side in a row.
constexpr uint32_t GROUP_UNITS = 4;

template <uint32_t UNIT_BYTES>
struct alignas(GROUP_UNITS* UNIT_BYTES) Group {
    uint32_t words[UNIT_BYTES];

    static constexpr uint32_t PER_WORD = 4 / UNIT_BYTES;
    static constexpr uint32_t BITS = 8 * UNIT_BYTES;

    WCODEC_INLINE uint32_t bits(uint32_t i) const {
        return words[i / PER_WORD] >> (i % PER_WORD * BITS);
    }
    WCODEC_INLINE int32_t number(uint32_t i) const {
        return int32_t(bits(i) << (32 - BITS)) >> (32 - BITS);
    }
    // Of a group that was 0 there.
    WCODEC_INLINE void put(uint32_t i, uint32_t number) {
        words[i / PER_WORD] |= (BITS == 32 ? number : number & ((1u << BITS % 32) - 1))
                               << (i % PER_WORD * BITS);
    }
    // Numbers to units or back.
    WCODEC_INLINE Group mapped(uint32_t form) const {
        constexpr uint32_t ONES = UNIT_BYTES == 1 ? 0x01010101 : UNIT_BYTES == 2 ? 0x00010001 : 1;
        Group result;
        WCODEC_UNROLL
        for (uint32_t k = 0; k < UNIT_BYTES; ++k) {
            const uint32_t negative = words[k] >> (BITS - 1) & ONES;
            result.words[k] = words[k];
            if (form == SPATIAL_UNSIGNED) result.words[k] ^= ONES << (BITS - 1);
            if (form == SPATIAL_FLOAT) result.words[k] ^= (negative << (BITS - 1)) - negative;
        }
        return result;
    }
};

// ---- Residuals ----------------------------------------------------------------------------------

struct SpatialShared {
    // A stripe and what is decoded beyond it.
    static constexpr uint32_t RING_UNITS = 1024;

    SpatialDescriptor block;
    TokenShared<MAX_TILE_TABLES, N_TOKENS> tokens;
    Window::Pieces raw;
    uint32_t ring[RING_UNITS];
};

// The tiles of a block.
class TileGrid {
public:
    const uint32_t n_rows, n_cols, tile_log2, n_across;

private:
    const uint8_t* const tiles_;

public:
    WCODEC_INLINE TileGrid(const SpatialDescriptor& block)
        : n_rows(kept(block.n_rows)),
          n_cols(kept(block.row_units)),
          tile_log2(kept(uint32_t(block.tile_log2))),
          n_across(kept((n_cols + (1u << tile_log2) - 1) >> tile_log2)),
          tiles_(reinterpret_cast<const uint8_t*>(block.parameters) +
                 2 * (N_TOKENS + 1) * block.n_tables) {}

    // The byte of the tile that holds a unit of the block.
    WCODEC_INLINE uint32_t tile_at(uint32_t row, uint32_t col) const {
        return load<uint8_t>(tiles_ + (row >> tile_log2) * n_across + (col >> tile_log2));
    }
    // The rows and columns of the tile that begins there.
    WCODEC_INLINE uint32_t rows_from(uint32_t row) const { return size(n_rows - row); }
    WCODEC_INLINE uint32_t cols_from(uint32_t col) const { return size(n_cols - col); }

private:
    WCODEC_INLINE uint32_t size(uint32_t left) const {
        return left < 1u << tile_log2 ? left : 1u << tile_log2;
    }
};

// Decodes the residuals of a block, in the order of the tokens, into the ring.
class ResidualDecoder {
    static constexpr uint32_t STEPS_UNITS = TOKEN_TILE_STEPS * WARP_THREADS;
    static constexpr uint32_t RING_MASK = SpatialShared::RING_UNITS - 1;
    static_assert((TRANSFORM_SIZE << MAX_TILE_LOG2) + STEPS_UNITS <= SpatialShared::RING_UNITS);
    // The raw bits of some steps, which begin in the first half of their window, end inside it.
    static constexpr uint32_t MOST_RAW_BITS = 29;
    static_assert(STEPS_UNITS * MOST_RAW_BITS <= 8 * (Window::HALF - 4));
    // The window of the raw bits begins so many bytes before them: there may be none.
    static constexpr uint32_t BEFORE_RAW = sizeof(Bytes16);

    const SpatialDescriptor& block_;
    const TileGrid grid_;
    SpatialShared& shared_;
    const uint8_t* const payload_;
    TokenStream<MAX_TILE_TABLES, N_TOKENS> stream_;
    Window raw_;
    uint32_t raw_bit_ = 8 * BEFORE_RAW;  // of the window
    uint32_t n_decoded_ = 0;

    // Of the thread's next unit: where its tile begins, how many units that has and which of them
    // it is; and the table of the tile.
    PerThread<uint32_t> row_, col_, n_units_, number_, table_;

public:
    WCODEC_INLINE ResidualDecoder(const SpatialDescriptor& block, SpatialShared& shared)
        : block_(block),
          grid_(block),
          shared_(shared),
          payload_(reinterpret_cast<const uint8_t*>(block.payload)),
          stream_(shared.tokens, payload_ + block.stream_offset, block.stream_bytes),
          raw_(shared.raw, payload_ + block.raw_offset - BEFORE_RAW, BEFORE_RAW + block.raw_bytes) {
        const uint8_t* const parameters = reinterpret_cast<const uint8_t*>(block.parameters);
        for (uint32_t k = 0; k < block.n_tables; ++k)
            stream_.build_table(k, parameters + 2 * (N_TOKENS + 1) * k, N_TOKENS);
        each_thread([&](uint32_t t) {
            row_[t] = col_[t] = 0;
            number_[t] = t;
            enter_tile(t);
            find_tile(t);
        });
    }

    WCODEC_INLINE const TileGrid& grid() const { return grid_; }

    WCODEC_INLINE void decode_until(uint32_t end) {
        while (n_decoded_ < end) decode_steps();
        sync_warp();
    }

    // The residual of a unit, of those before the last one that was asked for.
    WCODEC_INLINE uint32_t& at(uint32_t unit) { return shared_.ring[unit & RING_MASK]; }

    // Undo the transform of the whole squares of a stripe of eight rows: of their columns, then of
    // their rows.
    WCODEC_INLINE void undo_transform(uint32_t transform, uint32_t begin, uint32_t cols) {
        constexpr uint32_t N = TRANSFORM_SIZE;
        const uint32_t n_lines = cols / N * N;
        for (uint32_t pass = 0; pass < 2; ++pass) {
            each_thread([&](uint32_t t) {
                for (uint32_t line = t; line < n_lines; line += WARP_THREADS) {
                    if (pass == 0) {
                        undo_line(transform, begin + line, cols);
                    } else {
                        undo_line(transform, begin + line / N * N + line % N * cols, 1);
                    }
                }
            });
            sync_warp();
        }
    }

    WCODEC_INLINE uint32_t status() const { return stream_.status() | raw_status(); }

private:
    WCODEC_INLINE void decode_steps() {
        stream_.advance();
        if (raw_bit_ >= 8 * Window::HALF) {
            raw_bit_ -= 8 * Window::HALF;
            raw_.slide_by_half();
        }
        for (uint32_t i = 0; i < TOKEN_TILE_STEPS; ++i) {
            const uint32_t n_units = grid_.n_rows * grid_.n_cols;
            if (n_decoded_ < n_units) decode_step(n_units - n_decoded_);
            n_decoded_ += WARP_THREADS;
        }
    }

    WCODEC_INLINE void decode_step(uint32_t n_left) {
        PerThread<bool> takes_part, has_raw;
        PerThread<uint32_t> table, n_raw, raw;
        each_thread([&](uint32_t t) {
            takes_part[t] = t < n_left;
            table[t] = table_[t];
            number_[t] += WARP_THREADS;
            find_tile(t);
        });
        const PerThread<uint32_t> token = stream_.decode_step(table, takes_part);
        each_thread([&](uint32_t t) {
            n_raw[t] = takes_part[t] ? raw_bits_of_token(token[t]) : 0;
            has_raw[t] = n_raw[t] != 0;
            raw[t] = 0;
        });
        if (any(has_raw)) take_raw_bits(n_raw, raw);
        each_thread([&](uint32_t t) {
            if (takes_part[t]) at(n_decoded_ + t) = residual_of(token[t], raw[t]);
        });
    }

    // Go on to the tile of the thread's unit; after the last one there is table 0.
    WCODEC_INLINE void find_tile(uint32_t t) {
        while (number_[t] >= n_units_[t]) {
            number_[t] -= n_units_[t];
            col_[t] += 1u << grid_.tile_log2;
            if (col_[t] >= grid_.n_cols) {
                col_[t] = 0;
                row_[t] += 1u << grid_.tile_log2;
            }
            enter_tile(t);
        }
    }

    WCODEC_INLINE void enter_tile(uint32_t t) {
        const bool is_there = row_[t] < grid_.n_rows;
        n_units_[t] = is_there ? grid_.rows_from(row_[t]) * grid_.cols_from(col_[t]) : 0xFFFFFFFF;
        table_[t] = is_there ? grid_.tile_at(row_[t], col_[t]) >> 5 : 0;
    }

    WCODEC_INLINE void take_raw_bits(const PerThread<uint32_t>& n_raw, PerThread<uint32_t>& raw) {
        PerThread<uint32_t> end = n_raw;
        WCODEC_UNROLL
        for (uint32_t distance = 1; distance < WARP_THREADS; distance *= 2) {
            const PerThread<uint32_t> before = from_before(end, distance);
            each_thread([&](uint32_t t) { end[t] += t >= distance ? before[t] : 0; });
        }
        each_thread([&](uint32_t t) {
            const uint32_t bit = raw_bit_ + end[t] - n_raw[t];
            const uint32_t low = raw_.at<uint32_t>(bit / 32 * 4);
            const uint32_t high = raw_.at<uint32_t>(bit / 32 * 4 + 4);
            raw[t] = shift_right(low, high, bit) & ((1u << n_raw[t]) - 1);
        });
        raw_bit_ += value_of(end, WARP_THREADS - 1);
    }

    WCODEC_INLINE void undo_line(uint32_t transform, uint32_t first, uint32_t stride) {
        uint32_t x[TRANSFORM_SIZE];
        WCODEC_UNROLL
        for (uint32_t i = 0; i < TRANSFORM_SIZE; ++i) x[i] = at(first + i * stride);
        if (transform == TRANSFORM_DCT) {
            undo_steps<TRANSFORM_DCT>(x);
        } else if (transform == TRANSFORM_ADST) {
            undo_steps<TRANSFORM_ADST>(x);
        } else {
            undo_steps<TRANSFORM_HADAMARD>(x);
        }
        WCODEC_UNROLL
        for (uint32_t i = 0; i < TRANSFORM_SIZE; ++i) at(first + i * stride) = x[i];
    }

    WCODEC_INLINE uint32_t raw_status() const {
        const uint32_t n_bits = 8 * (raw_.start() - BEFORE_RAW) + raw_bit_;
        const uint32_t n_bytes = block_.raw_bytes;
        if ((n_bits + 7) / 8 != n_bytes) return STATUS_RAW;
        if (n_bits % 8 == 0) return 0;
        const uint32_t last = load<uint8_t>(payload_ + block_.raw_offset + n_bytes - 1);
        return last >> n_bits % 8 != 0 ? STATUS_PADDING : 0;
    }
};

// ---- The block ----------------------------------------------------------------------------------

template <uint32_t UNIT_BYTES>
class SpatialDecoder {
    using Units = Group<UNIT_BYTES>;

    const SpatialDescriptor& block_;
    ResidualDecoder residuals_;

public:
    WCODEC_INLINE SpatialDecoder(const SpatialDescriptor& block, SpatialShared& shared)
        : block_(copy_descriptor(block, shared.block)), residuals_(block_, shared) {}

    // Decode the block into the output and return its status.
    WCODEC_INLINE uint32_t decode() {
        uint32_t begin = 0;
        for (uint32_t row = 0; row < grid().n_rows; row += 1u << grid().tile_log2)
            for (uint32_t col = 0; col < grid().n_cols; col += 1u << grid().tile_log2)
                begin = decode_tile(begin, row, col);
        sync_warp();
        restore_rows();
        return residuals_.status();
    }

private:
    WCODEC_INLINE const TileGrid& grid() const { return residuals_.grid(); }

    WCODEC_INLINE static const SpatialDescriptor& copy_descriptor(const SpatialDescriptor& from,
                                                                  SpatialDescriptor& to) {
        each_thread([&](uint32_t t) {
            if (t == 0) to = from;
        });
        sync_warp();
        return to;
    }

    WCODEC_INLINE uint8_t* place(uint32_t row, uint32_t col) const {
        return reinterpret_cast<uint8_t*>(block_.output) + row * block_.row_stride +
               uint64_t(col) * UNIT_BYTES;
    }

    // Put the residuals of the tile that begins there into the output, stripe by stripe; `begin`
    // is the number of its first unit. Returns that of the next tile.
    WCODEC_INLINE uint32_t decode_tile(uint32_t begin, uint32_t row, uint32_t col) {
        const uint32_t rows = grid().rows_from(row);
        const uint32_t cols = grid().cols_from(col);
        const uint32_t transform = grid().tile_at(row, col) >> 3 & 3;
        for (uint32_t r = 0; r < rows; r += TRANSFORM_SIZE) {
            const uint32_t n = rows - r < TRANSFORM_SIZE ? rows - r : TRANSFORM_SIZE;
            residuals_.decode_until(begin + n * cols);
            if (transform != TRANSFORM_NONE && n == TRANSFORM_SIZE)
                residuals_.undo_transform(transform, begin, cols);
            store_stripe(begin, row + r, col, n, cols);
            begin += n * cols;
        }
        return begin;
    }

    WCODEC_INLINE void store_stripe(uint32_t begin, uint32_t row, uint32_t col, uint32_t rows,
                                    uint32_t cols) {
        each_thread([&](uint32_t t) {
            for (uint32_t i = t; i < rows << grid().tile_log2; i += WARP_THREADS) {
                const uint32_t r = i >> grid().tile_log2;
                const uint32_t c = i & ((1u << grid().tile_log2) - 1);
                if (c < cols)
                    store_any<UNIT_BYTES>(place(row + r, col + c),
                                          residuals_.at(begin + r * cols + c));
            }
        });
    }

    // ---- The wave -------------------------------------------------------------------------------

    WCODEC_INLINE void restore_rows() {
        const uint32_t n_groups = (grid().n_cols + GROUP_UNITS - 1) / GROUP_UNITS;
        // Thread 0 begins a row when thread 31 is a step or more into the one above.
        const uint32_t period = n_groups < WARP_THREADS ? WARP_THREADS : n_groups;
        const uint32_t last_thread = (grid().n_rows - 1) % WARP_THREADS;
        const uint32_t n_steps =
            (grid().n_rows - 1) / WARP_THREADS * period + last_thread + n_groups;
        const bool by_groups = (block_.output | block_.row_stride) % sizeof(Units) == 0;
        const uint32_t form = block_.form;

        PerThread<uint32_t> row, group;  // of a row above the block first: there the wave begins
        PerThread<uint32_t> done[UNIT_BYTES], corner;
        each_thread([&](uint32_t t) {
            row[t] = t == 0 ? 0 : t - WARP_THREADS;
            group[t] = t == 0 ? 0 : period - t;
            corner[t] = 0;
            for (uint32_t k = 0; k < UNIT_BYTES; ++k) done[k][t] = 0;
        });
        for (uint32_t step = 0; step < n_steps; ++step) {
            PerThread<uint32_t> above[UNIT_BYTES];
            WCODEC_UNROLL
            for (uint32_t k = 0; k < UNIT_BYTES; ++k) above[k] = from_before(done[k], 1);
            each_thread([&](uint32_t t) {
                if (row[t] < grid().n_rows && group[t] < n_groups) {
                    const uint32_t col = group[t] * GROUP_UNITS;
                    const uint32_t left = grid().n_cols - col;
                    const uint32_t n = left < GROUP_UNITS ? left : GROUP_UNITS;
                    uint8_t* const at = place(row[t], col);
                    Units top, last;
                    for (uint32_t k = 0; k < UNIT_BYTES; ++k) {
                        top.words[k] = t == 0 ? 0 : above[k][t];
                        last.words[k] = done[k][t];
                    }
                    if (t == 0 && row[t] > 0)
                        top = load_units(at - block_.row_stride, n, by_groups).mapped(form);
                    const uint32_t predictor = grid().tile_at(row[t], col) & 7;
                    const int32_t first_left = col == 0 ? 0 : last.number(GROUP_UNITS - 1);
                    const int32_t first_corner = col == 0 ? 0 : int32_t(corner[t]);
                    const Units numbers = restore_group(load_units(at, n, by_groups), predictor,
                                                        top, first_left, first_corner);
                    store_units(at, numbers.mapped(form), n, by_groups);
                    corner[t] = uint32_t(top.number(GROUP_UNITS - 1));
                    for (uint32_t k = 0; k < UNIT_BYTES; ++k) done[k][t] = numbers.words[k];
                }
                if (++group[t] == period) {
                    group[t] = 0;
                    row[t] += WARP_THREADS;
                }
            });
            sync_warp();
        }
    }

    WCODEC_INLINE static Units restore_group(const Units& residuals, uint32_t predictor,
                                             const Units& top, int32_t left, int32_t corner) {
        Units numbers = {};
        WCODEC_UNROLL
        for (uint32_t i = 0; i < GROUP_UNITS; ++i) {
            const uint32_t guess = expected<UNIT_BYTES>(predictor, left, top.number(i), corner);
            numbers.put(i, guess + residuals.bits(i));
            left = numbers.number(i);
            corner = top.number(i);
        }
        return numbers;
    }

    // The n units at an address; those after them are 0.
    WCODEC_INLINE static Units load_units(const uint8_t* from, uint32_t n, bool by_groups) {
        if (by_groups && n == GROUP_UNITS) return load_stored<Units>(from);
        Units units = {};
        WCODEC_UNROLL
        for (uint32_t i = 0; i < GROUP_UNITS; ++i)
            if (i < n) units.put(i, load_any<UNIT_BYTES>(from + i * UNIT_BYTES));
        return units;
    }

    WCODEC_INLINE static void store_units(uint8_t* to, const Units& units, uint32_t n,
                                          bool by_groups) {
        if (by_groups && n == GROUP_UNITS) {
            store(to, units);
            return;
        }
        WCODEC_UNROLL
        for (uint32_t i = 0; i < GROUP_UNITS; ++i)
            if (i < n) store_any<UNIT_BYTES>(to + i * UNIT_BYTES, units.bits(i));
    }
};

}  // namespace wcodec
