// SPDX-License-Identifier: Apache-2.0
//
// The rans32 decoder of a warp (docs/format.md section 16): one warp decodes one block, a step 32
// units. Compiled into the kernels, and by the host compiler into their emulation for the tests.
//
// The host has checked the payload and laid out its parameters (gpu_descriptors.hpp). What it has
// not looked at, the stream and the raw bits, is not trusted: whatever the bytes are, loads stay
// inside the payload, stores inside the block's units, and the number of steps is the descriptor's.
#pragma once

#include "gpu_descriptors.hpp"
#include "stream_format.hpp"
#include "token_warp.hpp"
#include "warp.hpp"

namespace wcodec {

template <uint32_t UNIT_BYTES>
struct Rans32Shared {
    static constexpr uint32_t MOST_RAW_BITS =
        8 * UNIT_BYTES - 1 < MAX_RANS32_RAW_BITS ? 8 * UNIT_BYTES - 1 : MAX_RANS32_RAW_BITS;
    // The raw bits of a tile, of which each unit may have so many.
    static constexpr uint32_t TILE_RAW_BYTES = TOKEN_TILE_STEPS * WARP_THREADS * MOST_RAW_BITS / 8;
    static constexpr uint32_t RING_TILES = 3;
    static_assert(TILE_RAW_BYTES % sizeof(Bytes16) == 0);

    Rans32Descriptor block;
    TokenShared<MAX_RANS32_TABLES, MAX_ALPHABET> tokens;
    uint32_t value[MAX_ALPHABET];  // the code of a symbol where a unit, or its upper half, has it
    // A thread reads the two or three words from that in which its bits begin.
    alignas(16) uint32_t raw[RING_TILES * TILE_RAW_BYTES / 4 + 4];
};

template <uint32_t UNIT_BYTES>
class Rans32Decoder {
    using Shared = Rans32Shared<UNIT_BYTES>;
    static constexpr uint32_t TILE_UNITS = TOKEN_TILE_STEPS * WARP_THREADS;
    static constexpr bool IS_WIDE = UNIT_BYTES == 8;
    // value[] is shifted down by this.
    static constexpr uint32_t VALUE_SHIFT = IS_WIDE ? 32 : 0;

    struct Unit {
        uint32_t words[IS_WIDE ? 2 : 1];
    };

    const Rans32Descriptor& block_;
    Shared& shared_;
    const uint8_t* const payload_;
    TokenStream<MAX_RANS32_TABLES, MAX_ALPHABET> stream_;
    const uint32_t n_units_;
    // What every step needs, in registers.
    const uint32_t row_units_, raw_bits_, n_low_, zero_bits_, last_table_, escape_;
    uint32_t n_escapes_used_ = 0;

    // Where the thread's unit of the next step is and goes, and the table of its symbol.
    PerThread<uint32_t> row_, column_, table_;
    PerThread<uint8_t*> to_;

    // Raw bits are 16 bytes for each bit that a unit has in a tile: that in use begins at
    // raw_tile_, the next one to copy is raw_from_ and goes to raw_to_.
    const uint8_t* raw_from_;
    uint32_t raw_left_;
    uint32_t raw_to_ = 0;
    uint32_t raw_tile_ = 0;

public:
    WCODEC_INLINE Rans32Decoder(const Rans32Descriptor& block, Shared& shared)
        : block_(copy_descriptor(block, shared.block)),
          shared_(shared),
          payload_(reinterpret_cast<const uint8_t*>(block_.payload)),
          stream_(shared.tokens, payload_ + block_.stream_offset, block_.stream_bytes),
          n_units_(block_.n_rows * block_.row_units),
          row_units_(kept(block_.row_units)),
          raw_bits_(kept(uint32_t(block_.raw_bits))),
          n_low_(kept(block_.raw_bits - (block_.flags & RANS32_SIGN ? 1u : 0u))),
          zero_bits_(kept(uint32_t(block_.zero_bits))),
          last_table_(kept(block_.n_tables - 1u)),
          escape_(kept(block_.flags & RANS32_ESCAPE ? block_.n_symbols - 1u : MAX_ALPHABET)),
          raw_from_(payload_ + block_.raw_offset),
          raw_left_((n_units_ * block_.raw_bits + 7) / 8) {}

    // Decode the block into the output and return its status.
    WCODEC_INLINE uint32_t decode() {
        WCODEC_UNROLL
        for (uint32_t i = 0; i + 1 < Shared::RING_TILES; ++i) copy_raw_tile();
        load_parameters();
        each_thread([&](uint32_t t) {
            row_[t] = t / row_units_;
            column_[t] = t % row_units_;
            to_[t] = reinterpret_cast<uint8_t*>(block_.output) + row_[t] * block_.row_stride +
                     column_[t] * UNIT_BYTES;
            table_[t] = table_of(row_[t], column_[t]);
        });
        for (uint32_t first = 0; first < n_units_; first += TILE_UNITS) {
            stream_.advance();
            advance_raw_tile();
            for (uint32_t i = 0; i < TOKEN_TILE_STEPS; ++i) decode_step(first, i);
        }
        return stream_.status() | (n_escapes_used_ != block_.n_escapes ? STATUS_ESCAPES : 0);
    }

private:
    WCODEC_INLINE static const Rans32Descriptor& copy_descriptor(const Rans32Descriptor& from,
                                                                 Rans32Descriptor& to) {
        each_thread([&](uint32_t t) {
            if (t == 0) to = from;
        });
        sync_warp();
        return to;
    }

    // ---- Parameters -----------------------------------------------------------------------------

    WCODEC_INLINE const uint8_t* parameters() const {
        return reinterpret_cast<const uint8_t*>(block_.parameters);
    }

    WCODEC_INLINE void load_parameters() {
        const uint32_t n_symbols = block_.n_symbols;
        const uint32_t shift = block_.code_shift - VALUE_SHIFT;
        each_thread([&](uint32_t t) {
            for (uint32_t s = t; s < n_symbols; s += WARP_THREADS)
                element(shared_.value, s) = load<uint16_t>(parameters() + 2 * s) << shift;
        });
        for (uint32_t k = 0; k < block_.n_tables; ++k)
            stream_.build_table(k, parameters() + 2 * (n_symbols + k * (n_symbols + 1)), n_symbols);
    }

    // The table of the unit at a row and a column; of none beyond the last row.
    WCODEC_INLINE uint32_t table_of(uint32_t row, uint32_t column) const {
        const uint32_t last = last_table_;
        if (last == 0 || row >= block_.n_rows) return 0;
        const uint32_t n_symbols = block_.n_symbols;
        const uint8_t* classes = parameters() + 2 * (n_symbols + block_.n_tables * (n_symbols + 1));
        uint32_t table = 0;
        if (block_.flags & RANS32_ROW_CLASSES) {
            table = load<uint8_t>(classes + row);
            classes += block_.n_rows;
        }
        if (block_.flags & RANS32_COL_CLASSES) table += load<uint8_t>(classes + column);
        return table < last ? table : last;
    }

    // ---- Raw bits -------------------------------------------------------------------------------

    static WCODEC_INLINE uint32_t next_in_ring(uint32_t tile) {
        return tile == (Shared::RING_TILES - 1) * Shared::TILE_RAW_BYTES
                   ? 0
                   : tile + Shared::TILE_RAW_BYTES;
    }

    // Begin to copy the raw bits of the next tile into the ring: whole pieces of 16 bytes, as many
    // as a unit has bits, as far as the payload goes, which is padded to such pieces.
    WCODEC_INLINE void copy_raw_tile() {
        const uint32_t n_pieces = block_.raw_bits;
        Bytes16* const to = reinterpret_cast<Bytes16*>(shared_.raw) + raw_to_ / sizeof(Bytes16);
        each_thread([&](uint32_t t) {
            for (uint32_t piece = t; piece < n_pieces; piece += WARP_THREADS) {
                if (sizeof(Bytes16) * piece < raw_left_)
                    begin_copy(to + piece, raw_from_ + sizeof(Bytes16) * piece);
            }
        });
        commit_copies();
        const uint32_t n_bytes = sizeof(Bytes16) * n_pieces;
        raw_from_ += n_bytes;
        raw_left_ = raw_left_ > n_bytes ? raw_left_ - n_bytes : 0;
        raw_to_ = next_in_ring(raw_to_);
    }

    // Wait for the tile after that in use, whose place in the ring is free now.
    WCODEC_INLINE void advance_raw_tile() {
        wait_copies<Shared::RING_TILES - 2>();
        sync_warp();
        raw_tile_ = next_in_ring(raw_to_);
        copy_raw_tile();
    }

    // ---- One step -------------------------------------------------------------------------------

    WCODEC_INLINE void decode_step(uint32_t first, uint32_t i) {
        PerThread<bool> takes_part;
        PerThread<uint8_t*> to;
        PerThread<uint32_t> table;
        each_thread([&](uint32_t t) {
            takes_part[t] = first + i * WARP_THREADS + t < n_units_;
            to[t] = to_[t];
            table[t] = table_[t];
            advance_unit(t);
        });
        const PerThread<uint32_t> symbol = stream_.decode_step(table, takes_part);

        PerThread<uint32_t> value;
        PerThread<bool> is_escape;
        each_thread([&](uint32_t t) {
            value[t] = element(shared_.value, symbol[t]);
            is_escape[t] = takes_part[t] && symbol[t] == escape_;
        });
        if (any(is_escape)) [[unlikely]]
            take_escapes(is_escape, value);
        each_thread([&](uint32_t t) {
            if (takes_part[t]) store_unit(to[t], join(value[t], i * WARP_THREADS + t));
        });
    }

    // The thread's next unit is a warp further on. Its table is asked for a step before it is
    // needed.
    WCODEC_INLINE void advance_unit(uint32_t t) {
        column_[t] += WARP_THREADS;
        to_[t] += WARP_THREADS * UNIT_BYTES;
        while (column_[t] >= row_units_) {
            column_[t] -= row_units_;
            ++row_[t];
            to_[t] += block_.row_stride - uint64_t(row_units_) * UNIT_BYTES;
        }
        table_[t] = table_of(row_[t], column_[t]);
    }

    // Put the codes of the list of escapes where the symbols ask for them.
    WCODEC_INLINE void take_escapes(const PerThread<bool>& is_escape, PerThread<uint32_t>& value) {
        const uint8_t* const list = payload_ + block_.escapes_offset;
        const uint32_t escapes = ballot(is_escape);
        each_thread([&](uint32_t t) {
            const uint32_t index = n_escapes_used_ + population_count(escapes & threads_before(t));
            if (!is_escape[t] || index >= block_.n_escapes) return;
            const uint32_t code =
                UNIT_BYTES == 1 ? load<uint8_t>(list + index) : load<uint16_t>(list + 2 * index);
            value[t] = code << (block_.code_shift - VALUE_SHIFT);
        });
        n_escapes_used_ += population_count(escapes);
    }

    // A unit of its code, which is in place, and its raw bits; `number` counts in the tile.
    WCODEC_INLINE Unit join(uint32_t value, uint32_t number) const {
        const uint32_t bit = number * raw_bits_;
        const uint32_t at = raw_tile_ + bit / 32 * 4;
        const uint32_t low = word_at(shared_.raw, at);
        const uint32_t middle = word_at(shared_.raw, at + 4);
        const bool sign_raw = n_low_ != raw_bits_;
        if constexpr (IS_WIDE) {
            const uint32_t high = word_at(shared_.raw, at + 8);
            const uint64_t bits =
                uint64_t(shift_right(middle, high, bit)) << 32 | shift_right(low, middle, bit);
            uint64_t unit = uint64_t(value) << 32 | (bits & ((uint64_t(1) << n_low_) - 1))
                                                        << zero_bits_;
            if (sign_raw) unit |= (bits >> n_low_) << 63;
            return {{uint32_t(unit), uint32_t(unit >> 32)}};
        } else {
            const uint32_t bits = shift_right(low, middle, bit);
            uint32_t unit = value | (bits & ((1u << n_low_) - 1)) << zero_bits_;
            if (sign_raw) unit |= (bits >> n_low_ & 1) << (8 * UNIT_BYTES - 1);
            return {{unit}};
        }
    }

    // Store a unit, whatever its address.
    WCODEC_INLINE static void store_unit(uint8_t* to, const Unit& unit) {
        if constexpr (IS_WIDE) {
            store_any<4>(to, unit.words[0]);
            store_any<4>(to + 4, unit.words[1]);
        } else {
            store_any<UNIT_BYTES>(to, unit.words[0]);
        }
    }
};

}  // namespace wcodec
