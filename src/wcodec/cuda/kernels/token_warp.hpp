// SPDX-License-Identifier: Apache-2.0
//
// The decoder of a stream of tokens (docs/format.md section 15, streams): a thread of the warp is a
// lane, so a step decodes 32 symbols in their order. What decodes blocks with it, rans32_warp.hpp
// and spatial_warp.hpp, says which table each symbol has and what becomes of it.
//
// A slot leads to its symbol through the sums of the frequencies: from the symbol of the first of
// each 16 slots on they are searched one by one, which takes few steps, since likely symbols fill
// slots of their own. 16 tables of entries by slot would be 256 KiB, these are 12.
#pragma once

#include "gpu_descriptors.hpp"
#include "stream_format.hpp"
#include "warp.hpp"

namespace wcodec {

// Steps between two calls of advance().
constexpr uint32_t TOKEN_TILE_STEPS = 4;

// Bytes that a warp reads once, from front to back, through a window in shared memory.
class Window {
public:
    static constexpr uint32_t HALF = WARP_THREADS * sizeof(Bytes16);
    using Pieces = Bytes16[2 * WARP_THREADS];

private:
    Pieces& pieces_;
    const uint8_t* const from_;
    const uint32_t n_bytes_;
    uint32_t start_ = 0;            // the window holds the bytes from here on,
    PerThread<Bytes16> next_half_;  // registers the next HALF of them

public:
    // At least one byte, at a multiple of 16 and padded to one.
    WCODEC_INLINE Window(Pieces& pieces, const uint8_t* from, uint32_t n_bytes)
        : pieces_(pieces), from_(from), n_bytes_(n_bytes) {
        each_thread([&](uint32_t t) {
            pieces_[t] = load_piece(0, t);
            pieces_[WARP_THREADS + t] = load_piece(HALF, t);
            next_half_[t] = load_piece(2 * HALF, t);
        });
        sync_warp();
    }

    WCODEC_INLINE void slide_by_half() {
        sync_warp();
        start_ += HALF;
        each_thread([&](uint32_t t) {
            pieces_[t] = pieces_[WARP_THREADS + t];
            pieces_[WARP_THREADS + t] = next_half_[t];
            next_half_[t] = load_piece(start_ + 2 * HALF, t);
        });
        sync_warp();
    }

    WCODEC_INLINE uint32_t start() const { return start_; }

    // By the offset in bytes, a multiple of the size of T.
    template <class T>
    WCODEC_INLINE T at(uint32_t offset) const {
        return part_of<T>(pieces_, offset);
    }

private:
    // Thread t's 16 bytes of the HALF at `offset`. After the end comes the last piece again, of
    // which nothing is used that is not wrong.
    WCODEC_INLINE Bytes16 load_piece(uint32_t offset, uint32_t t) const {
        const uint32_t at = offset + uint32_t(sizeof(Bytes16)) * t;
        const uint32_t last = n_bytes_ - 1;
        return load<Bytes16>(from_ + (at < last ? at : last / sizeof(Bytes16) * sizeof(Bytes16)));
    }
};

template <uint32_t N_TABLES, uint32_t N_SYMBOLS>
struct TokenShared {
    static constexpr uint32_t SLOTS_OF_FIRST = 16;
    static constexpr uint32_t N_FIRST = TOKEN_SCALE / SLOTS_OF_FIRST;

    Window::Pieces window;
    // Sums of the frequencies before each symbol, and TOKEN_SCALE after the last.
    uint16_t sum[N_TABLES][N_SYMBOLS + 1];
    uint8_t first[N_TABLES][N_FIRST];
};

// N_SYMBOLS is the most that a table has, a power of two.
template <uint32_t N_TABLES, uint32_t N_SYMBOLS>
class TokenStream {
    using Shared = TokenShared<N_TABLES, N_SYMBOLS>;
    // A step uses at most a word for each lane, so what begins in the first half of the window ends
    // inside it.
    static_assert(TOKEN_TILE_STEPS * 2 * TOKEN_LANES <= Window::HALF);

    Shared& shared_;
    const uint32_t n_bytes_;  // of states and words
    Window window_;
    uint32_t window_offset_ = TOKEN_STATES_BYTES;
    PerThread<uint32_t> state_;

public:
    // The stream is at a multiple of 16 and padded to one; it has at least its states.
    WCODEC_INLINE TokenStream(Shared& shared, const uint8_t* stream, uint32_t n_bytes)
        : shared_(shared), n_bytes_(n_bytes), window_(shared.window, stream, n_bytes) {
        each_thread([&](uint32_t t) { state_[t] = load<uint32_t>(stream + 4 * t); });
    }

    // Build a table from n_symbols + 1 sums, which ascend from 0 to TOKEN_SCALE.
    WCODEC_INLINE void build_table(uint32_t table, const uint8_t* sums, uint32_t n_symbols) {
        each_thread([&](uint32_t t) {
            for (uint32_t s = t; s <= n_symbols; s += WARP_THREADS)
                element(shared_.sum[table], s) = load<uint16_t>(sums + 2 * s);
        });
        sync_warp();
        each_thread([&](uint32_t t) {
            for (uint32_t i = t; i < Shared::N_FIRST; i += WARP_THREADS) {
                // The last symbol whose sum is not above the slot: all symbols have one that is
                // not in the table, or more slots after it.
                uint32_t symbol = 0;
                for (uint32_t more = N_SYMBOLS / 2; more > 0; more /= 2) {
                    if (symbol + more < n_symbols &&
                        element(shared_.sum[table], symbol + more) <= i * Shared::SLOTS_OF_FIRST)
                        symbol += more;
                }
                element(shared_.first[table], i) = uint8_t(symbol);
            }
        });
        sync_warp();
    }

    // Make room for TOKEN_TILE_STEPS steps.
    WCODEC_INLINE void advance() {
        if (window_offset_ < Window::HALF) return;
        window_offset_ -= Window::HALF;
        window_.slide_by_half();
    }

    // A symbol for each thread that takes part, by its table.
    WCODEC_INLINE PerThread<uint32_t> decode_step(const PerThread<uint32_t>& table,
                                                  const PerThread<bool>& takes_part) {
        PerThread<uint32_t> symbol;
        PerThread<bool> is_short;
        each_thread([&](uint32_t t) {
            const uint32_t slot = state_[t] % TOKEN_SCALE;
            const uint16_t (&sum)[N_SYMBOLS + 1] = element(shared_.sum, table[t]);
            uint32_t s = element(element(shared_.first, table[t]), slot / Shared::SLOTS_OF_FIRST);
            uint32_t begin = element(sum, s);
            uint32_t end = element(sum, s + 1);
            while (end <= slot) {
                ++s;
                begin = end;
                end = element(sum, s + 1);
            }
            symbol[t] = s;
            if (takes_part[t]) state_[t] = (end - begin) * (state_[t] / TOKEN_SCALE) + slot - begin;
            is_short[t] = state_[t] < TOKEN_STATE_LOWER;
        });
        const uint32_t shorts = ballot(is_short);
        each_thread([&](uint32_t t) {
            if (!is_short[t]) return;
            const uint32_t at = window_offset_ + 2 * population_count(shorts & threads_before(t));
            state_[t] = state_[t] << 16 | window_.template at<uint16_t>(at);
        });
        window_offset_ += 2 * population_count(shorts);
        return symbol;
    }

    // STATUS_ bits: whether all states and words are as at the end of a whole stream.
    WCODEC_INLINE uint32_t status() const {
        PerThread<bool> is_wrong;
        each_thread([&](uint32_t t) { is_wrong[t] = state_[t] != TOKEN_STATE_LOWER; });
        const uint32_t used = window_.start() + window_offset_;
        return (any(is_wrong) ? STATUS_STATES : 0) | (used != n_bytes_ ? STATUS_BYTES : 0);
    }
};

}  // namespace wcodec
