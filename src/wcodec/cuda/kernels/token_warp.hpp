// SPDX-License-Identifier: Apache-2.0
//
// The decoder of a stream of tokens (docs/format.md section 15, streams): a thread of the warp is a
// lane, so a step decodes 32 symbols in their order. What decodes blocks with it, rans32_warp.hpp,
// says which table each symbol has and what becomes of it.
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

template <uint32_t N_TABLES>
struct TokenShared {
    static constexpr uint32_t SLOTS_OF_FIRST = 16;
    static constexpr uint32_t N_FIRST = TOKEN_SCALE / SLOTS_OF_FIRST;
    // A step uses at most a word for each lane, so what begins in the first half of the window ends
    // inside it.
    static constexpr uint32_t WINDOW_HALF = WARP_THREADS * sizeof(Bytes16);
    static_assert(TOKEN_TILE_STEPS * 2 * TOKEN_LANES <= WINDOW_HALF);

    Bytes16 window[2 * WARP_THREADS];
    // Sums of the frequencies before each symbol, and TOKEN_SCALE after the last.
    uint16_t sum[N_TABLES][MAX_ALPHABET + 1];
    uint8_t first[N_TABLES][N_FIRST];
};

template <uint32_t N_TABLES>
class TokenStream {
    using Shared = TokenShared<N_TABLES>;
    static constexpr uint32_t WINDOW_HALF = Shared::WINDOW_HALF;

    Shared& shared_;
    const uint8_t* const stream_;
    const uint32_t n_bytes_;  // of states and words

    PerThread<uint32_t> state_;

    // The window holds the words from window_start_; the next WINDOW_HALF bytes are in registers.
    uint32_t window_start_ = 0;
    uint32_t window_offset_ = 0;
    PerThread<Bytes16> next_half_;

public:
    // The stream is at a multiple of 16 and padded to one; it has at least its states.
    WCODEC_INLINE TokenStream(Shared& shared, const uint8_t* stream, uint32_t n_bytes)
        : shared_(shared), stream_(stream), n_bytes_(n_bytes) {
        each_thread([&](uint32_t t) {
            state_[t] = load<uint32_t>(stream_ + 4 * t);
            shared_.window[t] = load_words(0, t);
            shared_.window[WARP_THREADS + t] = load_words(WINDOW_HALF, t);
            next_half_[t] = load_words(2 * WINDOW_HALF, t);
        });
        sync_warp();
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
                for (uint32_t more = MAX_ALPHABET / 2; more > 0; more /= 2) {
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
        if (window_offset_ < WINDOW_HALF) return;
        sync_warp();
        window_start_ += WINDOW_HALF;
        window_offset_ -= WINDOW_HALF;
        each_thread([&](uint32_t t) {
            shared_.window[t] = shared_.window[WARP_THREADS + t];
            shared_.window[WARP_THREADS + t] = next_half_[t];
            next_half_[t] = load_words(window_start_ + 2 * WINDOW_HALF, t);
        });
        sync_warp();
    }

    // A symbol for each thread that takes part, by its table.
    WCODEC_INLINE PerThread<uint32_t> decode_step(const PerThread<uint32_t>& table,
                                                  const PerThread<bool>& takes_part) {
        PerThread<uint32_t> symbol;
        PerThread<bool> is_short;
        each_thread([&](uint32_t t) {
            const uint32_t slot = state_[t] % TOKEN_SCALE;
            const uint16_t (&sum)[MAX_ALPHABET + 1] = element(shared_.sum, table[t]);
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
            state_[t] = state_[t] << 16 | word16_at(shared_.window, at);
        });
        window_offset_ += 2 * population_count(shorts);
        return symbol;
    }

    // STATUS_ bits: whether all states and words are as at the end of a whole stream.
    WCODEC_INLINE uint32_t status() const {
        PerThread<bool> is_wrong;
        each_thread([&](uint32_t t) { is_wrong[t] = state_[t] != TOKEN_STATE_LOWER; });
        const uint32_t used = TOKEN_STATES_BYTES + window_start_ + window_offset_;
        return (any(is_wrong) ? STATUS_STATES : 0) | (used != n_bytes_ ? STATUS_BYTES : 0);
    }

private:
    // Thread t's 16 bytes of the WINDOW_HALF bytes at `offset` of the words. After the end comes
    // the last piece again, which no good stream uses.
    WCODEC_INLINE Bytes16 load_words(uint32_t offset, uint32_t t) const {
        const uint32_t at = TOKEN_STATES_BYTES + offset + uint32_t(sizeof(Bytes16)) * t;
        const uint32_t last = n_bytes_ - 1;
        return load<Bytes16>(stream_ + (at < last ? at : last / sizeof(Bytes16) * sizeof(Bytes16)));
    }
};

}  // namespace wcodec
