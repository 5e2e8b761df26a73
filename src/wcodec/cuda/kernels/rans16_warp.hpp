// SPDX-License-Identifier: Apache-2.0
//
// The rans16 decoder of a warp (docs/format.md section 8): one warp decodes one stream of one
// block. Compiled into the kernels of kernels.cu, and by the host compiler into their
// emulation for the tests.
//
// Thread t owns lanes 4 t to 4 t + 3 of every step, so the order of the lanes is the order of the
// threads, and a thread's four units are consecutive in the output. The stream passes through a
// window in shared memory, raw fields through a ring of tiles there, copied ahead.
//
// The host has checked the payload's sizes and table and made the descriptor (gpu_descriptors.hpp).
// The bytes themselves are not trusted: whatever they are, loads stay inside the payload, stores
// inside the block's units, and the number of steps is the descriptor's. The status says whether
// the data can be right.
#pragma once

#include "gpu_descriptors.hpp"
#include "stream_format.hpp"
#include "warp.hpp"

namespace wcodec {

constexpr uint32_t LANES_PER_THREAD = LANES / WARP_THREADS;
constexpr uint32_t TILE_STEPS = 4;
// Tiles of raw fields in the ring: that in use, and those on their way.
constexpr uint32_t RING_TILES = 3;
// A step uses at most a byte for each lane, so a tile that begins in the first half of the window
// ends inside it.
constexpr uint32_t WINDOW_HALF = TILE_STEPS * LANES;
constexpr uint32_t WINDOW_BYTES = 2 * WINDOW_HALF;
static_assert(WINDOW_HALF == WARP_THREADS * sizeof(Bytes16));

// A table entry is frequency | (slot - cumulative) << 8 | value << 16. Bit 15 of a value, where a
// word has its sign, is set in the escape symbol's.
constexpr uint32_t ESCAPE_VALUE = 1u << 15;

template <uint32_t FORM>
struct WarpShared {
    static constexpr uint32_t STEP_RAW_BYTES =
        FIELD_MAPS[FORM].top_field + FIELD_MAPS[FORM].low_fields;
    static constexpr uint32_t TILE_RAW_BYTES = TILE_STEPS * STEP_RAW_BYTES;

    // Here, since a load of global memory in the loop would wait for the loads that are under way.
    StreamDescriptor stream;
    uint32_t table[SCALE];
    // A thread reads the two words around the end of its bytes: up to a word before and after the
    // window. What it takes of them is inside.
    static constexpr uint32_t WINDOW_BEGIN = sizeof(Bytes16);
    alignas(16) uint32_t window[(WINDOW_BEGIN + WINDOW_BYTES + sizeof(Bytes16)) / 4];

    WCODEC_INLINE Bytes16* window_pieces() {
        return reinterpret_cast<Bytes16*>(window) + WINDOW_BEGIN / sizeof(Bytes16);
    }

    // A map without raw fields has a ring of nothing, but an array has an element.
    alignas(16) uint32_t raw[TILE_RAW_BYTES == 0 ? 1 : RING_TILES * TILE_RAW_BYTES / 4];

    WCODEC_INLINE Bytes16* raw_pieces() { return reinterpret_cast<Bytes16*>(raw); }
};

template <uint32_t FORM>
class StreamDecoder {
    static constexpr uint32_t UNIT_BYTES = FIELD_MAPS[FORM].unit_bytes;
    static constexpr uint32_t VALUE_MASK = FIELD_MAPS[FORM].value_mask;
    static constexpr uint32_t TOP_FIELD = FIELD_MAPS[FORM].top_field;
    static constexpr uint32_t TOP_BITS = TOP_FIELD * 8 / LANES;
    static constexpr uint32_t LOW_FIELDS = FIELD_MAPS[FORM].low_fields;
    using Shared = WarpShared<FORM>;
    static constexpr uint32_t STEP_RAW_BYTES = Shared::STEP_RAW_BYTES;
    static constexpr uint32_t TILE_RAW_BYTES = Shared::TILE_RAW_BYTES;
    static constexpr uint32_t N_RAW_WORDS = 1 + (LOW_FIELDS + P8_BYTES - 1) / P8_BYTES;
    static constexpr uint32_t STEP_OUT_BYTES = LANES * UNIT_BYTES;

    struct Piece {  // what a thread stores of a step
        alignas(4 * UNIT_BYTES) uint32_t words[UNIT_BYTES];
    };

    const StreamDescriptor& stream_;
    Shared& shared_;
    const uint8_t* const payload_;

    PerThread<uint32_t> state_[LANES_PER_THREAD];
    uint32_t n_escapes_used_ = 0;

    // The window holds the stream from window_start_; the next WINDOW_HALF bytes are in registers.
    uint32_t window_start_ = 0;
    uint32_t window_offset_ = 0;
    PerThread<Bytes16> next_half_;

    // Where the tile in use is in the ring, and where in it the thread's fields of a step begin.
    uint32_t raw_tile_ = 0;
    PerThread<uint32_t> top_at_, low_at_;
    PerThread<uint32_t> top_shift_, low_shift_;

    // The thread's part of the next tile to copy, where that goes, and the bytes from it on.
    PerThread<const uint8_t*> raw_from_;
    uint32_t raw_to_ = 0;
    int32_t raw_left_;

    // Where the thread's units of the next step go.
    PerThread<uint8_t*> out_;

    PerThread<uint32_t> through_;  // threads_through(t)

public:
    WCODEC_INLINE StreamDecoder(const StreamDescriptor& stream, Shared& shared)
        : stream_(copy_descriptor(stream, shared.stream)),
          shared_(shared),
          payload_(reinterpret_cast<const uint8_t*>(stream_.payload)) {}

    // Decode the stream into the output, copy the tail if it is this stream's, return the status.
    WCODEC_INLINE uint32_t decode() {
        // All first loads before the work on the table, so that their waits are one.
        PerThread<Bytes16> window[2];
        load_states();
        load_window(window);
        locate_raw();
        if constexpr (STEP_RAW_BYTES != 0) {
            WCODEC_UNROLL
            for (uint32_t i = 0; i + 1 < RING_TILES; ++i) copy_raw_tile();
        }
        build_table();
        fill_window(window);
        decode_steps();
        copy_tail();
        return status();
    }

private:
    // ---- Setup ----------------------------------------------------------------------------------

    WCODEC_INLINE static const StreamDescriptor& copy_descriptor(const StreamDescriptor& from,
                                                                 StreamDescriptor& to) {
        each_thread([&](uint32_t t) {
            if (t == 0) to = from;
        });
        sync_warp();
        return to;
    }

    // The table of the 256 slots, from the frequencies and values of the payload. Any bytes give a
    // table; a wrong one is refused by the host.
    WCODEC_INLINE void build_table() {
        const uint8_t* const frequencies = payload_ + stream_.table_offset;
        const uint32_t n_symbols = stream_.n_symbols;
        const uint8_t* const values = frequencies + (n_symbols + 1) / 2 * 2;
        uint32_t* const symbol_entry = shared_.window;  // not in use yet
        uint32_t* const symbol_start = shared_.window + MAX_SYMBOLS;

        each_thread([&](uint32_t t) {
            for (uint32_t slot = t; slot < SCALE; slot += WARP_THREADS) shared_.table[slot] = 0;
        });
        sync_warp();

        // Mark the slots where symbols start.
        uint32_t start = 0;
        for (uint32_t first = 0; first < MAX_SYMBOLS; first += WARP_THREADS) {
            PerThread<uint32_t> frequency, sum;
            each_thread([&](uint32_t t) {
                frequency[t] = first + t < n_symbols ? load<uint8_t>(frequencies + first + t) : 0;
                sum[t] = frequency[t];
            });
            WCODEC_UNROLL
            for (uint32_t distance = 1; distance < WARP_THREADS; distance *= 2) {
                const PerThread<uint32_t> before = from_before(sum, distance);
                each_thread([&](uint32_t t) { sum[t] += t >= distance ? before[t] : 0; });
            }
            each_thread([&](uint32_t t) {
                const uint32_t symbol = first + t;
                if (symbol >= n_symbols) return;
                const uint32_t symbol_begin = start + sum[t] - frequency[t];
                const uint32_t value = load<uint16_t>(values + 2 * symbol) & VALUE_MASK;
                symbol_entry[symbol] =
                    frequency[t] | (symbol == stream_.escape ? ESCAPE_VALUE : value) << 16;
                symbol_start[symbol] = symbol_begin;
                if (symbol_begin < SCALE) shared_.table[symbol_begin] = 1;
            });
            start += value_of(sum, WARP_THREADS - 1);
        }
        sync_warp();

        // The symbol of a slot is the number of marks up to it, less one. Slot 0 has a mark.
        uint32_t n_marks = 0;
        for (uint32_t first = 0; first < SCALE; first += WARP_THREADS) {
            PerThread<bool> marked;
            each_thread([&](uint32_t t) { marked[t] = shared_.table[first + t] != 0; });
            const uint32_t marks = ballot(marked);
            each_thread([&](uint32_t t) {
                const uint32_t symbol = n_marks + population_count(marks & threads_through(t)) - 1;
                const uint32_t bias = (first + t - symbol_start[symbol]) & 0xFF;
                shared_.table[first + t] = symbol_entry[symbol] | bias << 8;
            });
            n_marks += population_count(marks);
        }
        sync_warp();
    }

    WCODEC_INLINE void load_states() {
        const uint8_t* const states = payload_ + stream_.states_offset;
        each_thread([&](uint32_t t) {
            const uint32_t group = t / 16;
            const uint8_t* const low = states + 2 * GROUP_LANES * group + 4 * (t % 16);
            const uint32_t low_bytes = load<uint32_t>(low);
            const uint32_t high_bytes = load<uint32_t>(low + GROUP_LANES);
            WCODEC_UNROLL
            for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) {
                state_[k][t] = (low_bytes >> 8 * k & 0xFF) | (high_bytes >> 8 * k & 0xFF) << 8;
            }
        });
    }

    // ---- Stream bytes ---------------------------------------------------------------------------

    // Thread t's 16 bytes of the WINDOW_HALF bytes at `offset` of the stream. A stream is padded to
    // a multiple of 16; after its end comes its last piece again (its states, if it is empty),
    // which no good stream uses: a load that always happens needs no register beside the one it
    // fills.
    WCODEC_INLINE Bytes16 load_stream(uint32_t offset, uint32_t t) const {
        const uint32_t at = STATES_BYTES + offset + uint32_t(sizeof(Bytes16)) * t;
        const uint32_t last = STATES_BYTES + stream_.stream_bytes - 1;
        return load<Bytes16>(payload_ + stream_.states_offset +
                             (at < last ? at : last / sizeof(Bytes16) * sizeof(Bytes16)));
    }

    WCODEC_INLINE void load_window(PerThread<Bytes16> (&halves)[2]) {
        each_thread([&](uint32_t t) {
            halves[0][t] = load_stream(0, t);
            halves[1][t] = load_stream(WINDOW_HALF, t);
            next_half_[t] = load_stream(WINDOW_BYTES, t);
        });
    }

    WCODEC_INLINE void fill_window(const PerThread<Bytes16> (&halves)[2]) {
        each_thread([&](uint32_t t) {
            shared_.window_pieces()[t] = halves[0][t];
            shared_.window_pieces()[WARP_THREADS + t] = halves[1][t];
        });
        sync_warp();
    }

    WCODEC_INLINE void advance_window() {
        sync_warp();
        window_start_ += WINDOW_HALF;
        window_offset_ -= WINDOW_HALF;
        each_thread([&](uint32_t t) {
            Bytes16* const window = shared_.window_pieces();
            window[t] = window[WARP_THREADS + t];
            window[WARP_THREADS + t] = next_half_[t];
            next_half_[t] = load_stream(window_start_ + WINDOW_BYTES, t);
        });
        sync_warp();
    }

    // ---- Raw fields -----------------------------------------------------------------------------

    // A thread's four fields of `bits` bits are bits 4 * bits * t ... of the step's bit string.
    // This is the word they begin in.
    static constexpr WCODEC_INLINE uint32_t field_word(uint32_t bits, uint32_t t) {
        return bits * t / 8;
    }
    static constexpr WCODEC_INLINE uint32_t field_shift(uint32_t bits, uint32_t t) {
        return bits * t % 8 * 4;
    }

    // F2: the thread's fields are in the four bytes from here, at these bits of each.
    static constexpr WCODEC_INLINE uint32_t two_bits_at(uint32_t t) {
        return t / 16 * 16 + 4 * (t % 4);
    }
    static constexpr WCODEC_INLINE uint32_t two_bits_shift(uint32_t t) { return t % 16 / 4 * 2; }

    // The thread's fields, from bit 0 on (with other bits above them), out of the word they begin
    // in and the next thread's. Where they reach beyond their word, bits * t % 8 + bits > 8, so
    // that the next thread's fields begin in the word after it.
    WCODEC_INLINE static PerThread<uint32_t> gather_fields(const PerThread<uint32_t>& word,
                                                           const PerThread<uint32_t>& shift) {
        const PerThread<uint32_t> next = from_next(word);
        PerThread<uint32_t> fields;
        each_thread([&](uint32_t t) { fields[t] = shift_right(word[t], next[t], shift[t]); });
        return fields;
    }

    WCODEC_INLINE void locate_raw() {
        const uint8_t* const raw = payload_ + stream_.raw_offset;
        raw_left_ = int32_t(stream_.n_steps * STEP_RAW_BYTES);
        each_thread([&](uint32_t t) {
            raw_from_[t] = kept(raw + sizeof(Bytes16) * t);
            top_at_[t] = kept(TOP_BITS == 2   ? two_bits_at(t)
                              : TOP_BITS != 8 ? 4 * field_word(TOP_BITS, t)
                                              : 4 * t);
            if constexpr (TOP_BITS == 2) top_shift_[t] = kept(two_bits_shift(t));
            if constexpr (TOP_BITS > 2 && TOP_BITS < 8)
                top_shift_[t] = kept(field_shift(TOP_BITS, t));
            uint32_t low = 4 * t;
            if constexpr (LOW_FIELDS == F3_BYTES) {
                low = 4 * field_word(3, t);
                low_shift_[t] = kept(field_shift(3, t));
            } else if constexpr (LOW_FIELDS == F2_BYTES) {
                low = two_bits_at(t);
                low_shift_[t] = kept(25 + two_bits_shift(t));
            }
            if constexpr (LOW_FIELDS != 0) low_at_[t] = kept(TOP_FIELD + low);
        });
    }

    static WCODEC_INLINE uint32_t next_in_ring(uint32_t tile) {
        return tile == (RING_TILES - 1) * TILE_RAW_BYTES ? 0 : tile + TILE_RAW_BYTES;
    }

    // Begin to copy the next tile into the ring; after the last step there is nothing to copy.
    WCODEC_INLINE void copy_raw_tile() {
        constexpr uint32_t N_PIECES = TILE_RAW_BYTES / sizeof(Bytes16);
        each_thread([&](uint32_t t) {
            WCODEC_UNROLL
            for (uint32_t first = 0; first < N_PIECES; first += WARP_THREADS) {
                const uint32_t piece = first + t;
                const bool in_tile = first + WARP_THREADS <= N_PIECES || piece < N_PIECES;
                if (in_tile && int32_t(sizeof(Bytes16) * piece) < raw_left_) {
                    begin_copy(shared_.raw_pieces() + raw_to_ / sizeof(Bytes16) + piece,
                               raw_from_[t] + sizeof(Bytes16) * first);
                }
            }
            raw_from_[t] += TILE_RAW_BYTES;
        });
        commit_copies();
        raw_left_ -= TILE_RAW_BYTES;
        raw_to_ = next_in_ring(raw_to_);
    }

    // Wait for the tile after that in use, whose place in the ring is free now.
    WCODEC_INLINE void advance_raw_tile() {
        if constexpr (STEP_RAW_BYTES != 0) {
            wait_copies<RING_TILES - 2>();
            sync_warp();
            raw_tile_ = next_in_ring(raw_to_);
            copy_raw_tile();
        }
    }

    // The words where the thread's fields of step i of the tile begin.
    WCODEC_INLINE void load_raw(uint32_t i, PerThread<uint32_t> (&raw)[N_RAW_WORDS]) const {
        const uint32_t step = raw_tile_ + i * STEP_RAW_BYTES;
        each_thread([&](uint32_t t) {
            if constexpr (TOP_FIELD != 0) raw[0][t] = word_at(shared_.raw, top_at_[t] + step);
            if constexpr (LOW_FIELDS != 0) raw[1][t] = word_at(shared_.raw, low_at_[t] + step);
            if constexpr (LOW_FIELDS == 2 * P8_BYTES) {
                raw[2][t] = word_at(shared_.raw, low_at_[t] + step + P8_BYTES);
            }
        });
    }

    // ---- One step -------------------------------------------------------------------------------

    // Decode four symbols in each thread, into two pairs of values.
    WCODEC_INLINE void decode_symbols(PerThread<uint32_t> (&values)[2]) {
        PerThread<uint32_t> entry[LANES_PER_THREAD];
        PerThread<bool> is_short[LANES_PER_THREAD];
        each_thread([&](uint32_t t) {
            WCODEC_UNROLL
            for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) {
                const uint32_t x = state_[k][t];
                entry[k][t] = word_at(shared_.table, dot_bytes(x, 4));  // slot * 4 + (x >> 8) * 0
                // frequency * (x >> 8) + bias * 1
                state_[k][t] = dot_bytes(entry[k][t], select_bytes(x, 1, 0x5541));
                is_short[k][t] = state_[k][t] < STATE_LOWER;
            }
        });

        uint32_t shorts[LANES_PER_THREAD];
        WCODEC_UNROLL
        for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) shorts[k] = ballot(is_short[k]);

        PerThread<uint32_t> end;
        each_thread([&](uint32_t t) {
            end[t] = window_offset_;
            WCODEC_UNROLL
            for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) {
                end[t] += population_count(shorts[k] & through_[t]);
            }
            // The four bytes before `end`, by two word loads instead of four byte loads; the last
            // lane takes the last byte.
            const uint32_t word = end[t] & ~3u;
            uint32_t bytes =
                shift_right(word_at(shared_.window, word + Shared::WINDOW_BEGIN - 4),
                            word_at(shared_.window, word + Shared::WINDOW_BEGIN), 8 * end[t]);
            WCODEC_UNROLL
            for (uint32_t k = LANES_PER_THREAD; k-- > 0;) {
                if (is_short[k][t]) {
                    state_[k][t] = select_bytes(state_[k][t], bytes, 0x2207);
                    bytes <<= 8;
                }
            }
        });
        window_offset_ = value_of(end, WARP_THREADS - 1);

        PerThread<bool> has_escape;
        each_thread([&](uint32_t t) {
            values[0][t] = select_bytes(entry[0][t], entry[1][t], 0x7632);
            values[1][t] = select_bytes(entry[2][t], entry[3][t], 0x7632);
            has_escape[t] = ((values[0][t] | values[1][t]) & ESCAPE_VALUE * 0x00010001) != 0;
        });
        if (any(has_escape)) [[unlikely]]
            take_escapes(values);
    }

    // Put the values of the escape list where the values ask for them.
    WCODEC_INLINE void take_escapes(PerThread<uint32_t> (&values)[2]) {
        const uint8_t* const list = payload_ + stream_.escapes_offset;
        const uint32_t n_escapes = stream_.n_escapes;
        PerThread<uint32_t> end;
        each_thread([&](uint32_t t) { end[t] = n_escapes_used_; });
        WCODEC_UNROLL
        for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) {
            PerThread<bool> is_escape;
            each_thread([&](uint32_t t) {
                is_escape[t] = (values[k / 2][t] >> 16 * (k % 2) & ESCAPE_VALUE) != 0;
            });
            const uint32_t escapes = ballot(is_escape);
            each_thread([&](uint32_t t) { end[t] += population_count(escapes & through_[t]); });
        }
        n_escapes_used_ = value_of(end, WARP_THREADS - 1);
        each_thread([&](uint32_t t) {
            uint32_t index = end[t];
            WCODEC_UNROLL
            for (uint32_t k = LANES_PER_THREAD; k-- > 0;) {
                const uint32_t shift = 16 * (k % 2);
                if ((values[k / 2][t] >> shift & ESCAPE_VALUE) == 0) continue;
                --index;
                uint32_t value = 0;
                if (index < n_escapes) {
                    value = load<uint8_t>(list + index) << 8;
                    if constexpr (FIELD_MAPS[FORM].n_escape_lists == 2) {
                        value |= load<uint8_t>(list + n_escapes + index);
                    } else {
                        value >>= 8 - FIELD_MAPS[FORM].escape_shift;
                    }
                }
                values[k / 2][t] = merge_bits(values[k / 2][t], value << shift, 0xFFFFu << shift);
            }
        });
    }

    // The raw bits of the thread's four bytes, each in its byte, with other bits where symbols are.
    WCODEC_INLINE PerThread<uint32_t> raw_bits_of_bytes(const PerThread<uint32_t>& raw) const {
        PerThread<uint32_t> fields;
        if constexpr (TOP_BITS == 3) {
            fields = gather_fields(raw, top_shift_);
        } else {
            each_thread([&](uint32_t t) { fields[t] = raw[t] >> top_shift_[t]; });
        }
        each_thread([&](uint32_t t) {
            // Of a bit string to bytes: pairs move apart, then the two of a pair.
            if constexpr (TOP_BITS != 2) {
                const uint32_t pairs =
                    merge_bits(fields[t], fields[t] << (16 - 2 * TOP_BITS), 0xFFFF0000);
                fields[t] = merge_bits(pairs, pairs << (8 - TOP_BITS), 0xFF00FF00);
            }
            if constexpr (FORM == FORM_FP8_T5)
                fields[t] = merge_bits(fields[t], fields[t] << 5, 0x80808080);
        });
        return fields;
    }

    WCODEC_INLINE PerThread<Piece> join_bytes(const PerThread<uint32_t> (&values)[2],
                                              const PerThread<uint32_t> (&raw)[N_RAW_WORDS]) const {
        constexpr uint32_t RAW_MASK = (~(VALUE_MASK >> BYTE_SHIFT) & 0xFF) * 0x01010101;
        PerThread<uint32_t> fields;
        if constexpr (TOP_FIELD != 0) fields = raw_bits_of_bytes(raw[0]);
        PerThread<Piece> piece;
        each_thread([&](uint32_t t) {
            const uint32_t bytes =
                select_bytes(values[0][t] >> BYTE_SHIFT, values[1][t] >> BYTE_SHIFT, 0x6420);
            piece[t].words[0] = TOP_FIELD == 0 ? bytes : merge_bits(bytes, fields[t], RAW_MASK);
        });
        return piece;
    }

    // The thread's four units, from their values and raw fields. Of a value only the bits of the
    // mask get into a unit.
    WCODEC_INLINE PerThread<Piece> join(const PerThread<uint32_t> (&values)[2],
                                        const PerThread<uint32_t> (&raw)[N_RAW_WORDS]) const {
        if constexpr (UNIT_BYTES == 1) return join_bytes(values, raw);
        constexpr uint32_t RAW_MASK = (~VALUE_MASK & 0xFFFF) * 0x00010001;
        PerThread<uint32_t> top, low;
        if constexpr (TOP_FIELD == F7_BYTES) top = gather_fields(raw[0], top_shift_);
        if constexpr (LOW_FIELDS == F3_BYTES) low = gather_fields(raw[1], low_shift_);

        PerThread<Piece> piece;
        each_thread([&](uint32_t t) {
            // The sign of unit i is in bit 7 of byte i of `sign`, its mantissa bits are the low
            // ones of byte i of `mantissa`.
            uint32_t mantissa = raw[0][t];
            uint32_t sign = mantissa;
            if constexpr (TOP_FIELD == F7_BYTES) {
                const uint32_t halves = merge_bits(top[t], top[t] << 2, 0xFFFFC000);
                mantissa = merge_bits(halves, halves << 1, 0xFF00FF00);
                sign = mantissa << 1;
            }
            uint32_t fields[2] = {select_bytes(mantissa, sign, 0x5140),
                                  select_bytes(mantissa, sign, 0x7362)};
            if constexpr (LOW_FIELDS == F2_BYTES) {
                // The field of unit i to bits 8 i + 7 and 8 i + 8, around to bit 0 in the end.
                const uint32_t two = shift_right(raw[1][t], raw[1][t], low_shift_[t]);
                fields[0] = merge_bits(fields[0], select_bytes(two, two, 0x2110), 0x01800180);
                fields[1] = merge_bits(fields[1], select_bytes(two, two, 0x0332), 0x01800180);
            }
            // The top halves of the units, or the units.
            const uint32_t tops[2] = {merge_bits(values[0][t], fields[0], RAW_MASK),
                                      merge_bits(values[1][t], fields[1], RAW_MASK)};
            if constexpr (UNIT_BYTES == 2) {
                piece[t].words[0] = tops[0];
                piece[t].words[1] = tops[1];
            } else {
                uint32_t lows[2] = {0, 0};
                if constexpr (LOW_FIELDS == 2 * P8_BYTES) {
                    lows[0] = select_bytes(raw[2][t], raw[1][t], 0x5140);
                    lows[1] = select_bytes(raw[2][t], raw[1][t], 0x7362);
                } else if constexpr (LOW_FIELDS == F3_BYTES) {
                    // Two copies of the 12 bits side by side, so that the fields of a pair come to
                    // bits 13 and 29.
                    const uint32_t twelve = low[t] & 0xFFF;
                    lows[0] = twelve * (1u << 13 | 1u << 26) & 0xE000E000;
                    lows[1] = twelve * (1u << 7 | 1u << 20) & 0xE000E000;
                }
                WCODEC_UNROLL
                for (uint32_t i = 0; i < 2; ++i) {
                    piece[t].words[2 * i] = select_bytes(lows[i], tops[i], 0x5410);
                    piece[t].words[2 * i + 1] = select_bytes(lows[i], tops[i], 0x7632);
                }
            }
        });
        return piece;
    }

    // ---- All steps ------------------------------------------------------------------------------

    // Where a thread's units are in a step, in bytes: lane p = 16 q + (16 / w) k + j of group g is
    // unit (64 / w) k + (16 / w) q + j.
    static constexpr WCODEC_INLINE uint32_t piece_offset(uint32_t t) {
        const uint32_t g = t / 16;
        const uint32_t p = LANES_PER_THREAD * (t % 16);
        const uint32_t q = p / 16;
        const uint32_t k = p % 16 / (16 / UNIT_BYTES);
        const uint32_t j = p % (16 / UNIT_BYTES);
        return GROUP_LANES * UNIT_BYTES * g + 64 * k + 16 * q + UNIT_BYTES * j;
    }

    WCODEC_INLINE bool is_contiguous() const {
        return stream_.row_stride == uint64_t(stream_.row_units) * UNIT_BYTES;
    }

    WCODEC_INLINE uint8_t* output() const { return reinterpret_cast<uint8_t*>(stream_.output); }

    WCODEC_INLINE void decode_steps() {
        const uint32_t n_steps = stream_.n_steps;
        each_thread([&](uint32_t t) { through_[t] = kept(threads_through(t)); });

        // Whole steps of aligned rows are stored by pieces, anything else unit by unit. A row ends
        // before step row_end.
        const bool whole_steps =
            (stream_.output | (is_contiguous() ? 0 : stream_.row_stride)) % sizeof(Piece) == 0 &&
            (is_contiguous() || stream_.row_units % LANES == 0);
        const uint64_t row_gap = stream_.row_stride - uint64_t(stream_.row_units) * UNIT_BYTES;
        const uint32_t row_steps = stream_.row_units / LANES;
        uint64_t first_byte = uint64_t(stream_.first_step) * STEP_OUT_BYTES;
        uint32_t row_end = 0xFFFFFFFF;
        if (whole_steps && !is_contiguous()) {
            first_byte += stream_.first_step / row_steps * row_gap;
            row_end = row_steps - stream_.first_step % row_steps;
        }
        each_thread([&](uint32_t t) { out_[t] = kept(output() + first_byte + piece_offset(t)); });

        uint32_t step = 0;
        while (step < n_steps) {
            if (step == row_end) {
                each_thread([&](uint32_t t) { out_[t] += row_gap; });
                row_end += row_steps;
            }
            const uint32_t last = whole_steps ? n_steps : 0;
            const uint32_t end = last < row_end ? last : row_end;
            const bool tile_begins = step % TILE_STEPS == 0;
            uint32_t n_tiles = tile_begins && step < end ? (end - step) / TILE_STEPS : 0;
            if (n_tiles == 0) {
                if (window_offset_ >= WINDOW_HALF) advance_window();
                if (tile_begins) advance_raw_tile();
                single_step(step, whole_steps);
                ++step;
                continue;
            }
            step += n_tiles * TILE_STEPS;
            // A loop of its own: where it met the way of single steps, the compiler would move
            // next_half_ to other registers in each iteration, and wait for it to do so.
            do {
                if (window_offset_ >= WINDOW_HALF) advance_window();
                advance_raw_tile();
                WCODEC_UNROLL
                for (uint32_t i = 0; i < TILE_STEPS; ++i) {
                    const PerThread<Piece> piece = decode_step(i);
                    each_thread([&](uint32_t t) { store(out_[t] + i * STEP_OUT_BYTES, piece[t]); });
                }
                each_thread([&](uint32_t t) { out_[t] += TILE_STEPS * STEP_OUT_BYTES; });
            } while (--n_tiles != 0);
        }
    }

    // Decode step i of the tile in use.
    WCODEC_INLINE PerThread<Piece> decode_step(uint32_t i) {
        PerThread<uint32_t> raw[N_RAW_WORDS];
        load_raw(i, raw);
        PerThread<uint32_t> values[2];
        decode_symbols(values);
        return join(values, raw);
    }

    WCODEC_INLINE void single_step(uint32_t step, bool whole_steps) {
        const PerThread<Piece> piece = decode_step(step % TILE_STEPS);
        each_thread([&](uint32_t t) {
            if (whole_steps) {
                store(out_[t], piece[t]);
                return;
            }
            const uint32_t first =
                (stream_.first_step + step) * LANES + piece_offset(t) / UNIT_BYTES;
            uint32_t row = first / stream_.row_units;
            uint32_t column = first % stream_.row_units;
            WCODEC_UNROLL
            for (uint32_t i = 0; i < LANES_PER_THREAD; ++i) {
                const uint32_t word = piece[t].words[i * UNIT_BYTES / 4];
                store_unit(row, column, word >> 8 * (i * UNIT_BYTES % 4));
                if (++column == stream_.row_units) {
                    column = 0;
                    ++row;
                }
            }
        });
        each_thread([&](uint32_t t) { out_[t] += STEP_OUT_BYTES; });
    }

    // ---- Units one by one, and the end ----------------------------------------------------------

    // Store a unit, whatever its address.
    WCODEC_INLINE void store_unit(uint32_t row, uint32_t column, uint32_t word) const {
        store_any<UNIT_BYTES>(output() + row * stream_.row_stride + column * UNIT_BYTES, word);
    }

    WCODEC_INLINE void copy_tail() const {
        const uint8_t* const tail =
            payload_ + stream_.raw_offset + stream_.n_steps * STEP_RAW_BYTES;
        const uint32_t first = (stream_.first_step + stream_.n_steps) * LANES;
        each_thread([&](uint32_t t) {
            for (uint32_t i = t; i < stream_.tail_units; i += WARP_THREADS) {
                const uint8_t* const from = tail + i * UNIT_BYTES;
                store_unit((first + i) / stream_.row_units, (first + i) % stream_.row_units,
                           UNIT_BYTES == 1   ? load<uint8_t>(from)
                           : UNIT_BYTES == 2 ? load<uint16_t>(from)
                                             : load<uint32_t>(from));
            }
        });
    }

    WCODEC_INLINE uint32_t status() const {
        PerThread<bool> is_wrong;
        each_thread([&](uint32_t t) {
            is_wrong[t] = false;
            WCODEC_UNROLL
            for (uint32_t k = 0; k < LANES_PER_THREAD; ++k) {
                is_wrong[t] = is_wrong[t] || state_[k][t] != FINAL_STATE;
            }
        });
        return (any(is_wrong) ? STATUS_STATES : 0) |
               (window_start_ + window_offset_ != stream_.stream_bytes ? STATUS_BYTES : 0) |
               (n_escapes_used_ != stream_.n_escapes ? STATUS_ESCAPES : 0);
    }
};

}  // namespace wcodec
