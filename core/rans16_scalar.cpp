// SPDX-License-Identifier: Apache-2.0
//
// THE reference coder of rans16. Read docs/rans.md beside it; three things to know first:
//
// 1. A state x is a 16-bit number in [256, 65536). Encoding symbol s with frequency f and
//    cumulative c maps x to C(s, x) = (x / f) << 8 | (x % f + c), which grows x by about 256 / f;
//    decoding, D(x), undoes exactly that.
// 2. So the encoder works backwards: it codes the last step first and writes bytes from the end
//    towards the front. The decoder then runs forward and reads forward, and ends with every state
//    at 256, where the encoder began.
// 3. 128 lanes have a state each and share one byte string. When the decoder has decoded lane p and
//    its state fell below 256, lane p takes the next byte. The encoder visits lanes in the exact
//    reverse order, so no byte needs an address.
//
// Why one byte is always enough (decoding): x >> 8 >= 1 and f >= 1 give x' = f * (x >> 8) + slot -
// c >= 1, and 1 << 8 >= 256. Why it never overflows: f <= 255, x >> 8 <= 255, slot - c <= f - 1
// give x' <= 255 * 255 + 254 = 65279.
#include <algorithm>
#include <cstring>

#include "bytes.hpp"
#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

namespace wcodec {
namespace {

constexpr uint8_t NO_SYMBOL = 255;

// x / f = x * reciprocal >> 32 with reciprocal = ceil(2^32 / f), exactly: the error of the product,
// x * (reciprocal * f - 2^32) / (2^32 * f) < x / 2^32, stays below 1 / f for x < 2^16.
struct Symbol {
    uint32_t frequency;
    uint32_t cum;
    uint64_t reciprocal;
};

// The i-th escape of a stream; 0 where a hostile stream asks for more than it has.
uint16_t escape_value(const FieldMap& map, const DecodeStream& stream, uint64_t i) {
    if (i >= stream.n_escapes) return 0;
    const uint32_t first = stream.escapes[i];
    const uint32_t value = map.n_escape_lists == 1
                               ? first << map.escape_shift
                               : first << 8 | stream.escapes[stream.n_escapes + i];
    return static_cast<uint16_t>(value & map.value_mask);
}

void decode_stream(Form form, const DecodeTable& table, DecodeStream& stream, const uint8_t* raw,
                   const StepTarget& target) {
    const FieldMap& map = FIELD_MAPS[form];
    uint32_t states[LANES];
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        const uint8_t* group = stream.states + lane / GROUP_LANES * 2 * GROUP_LANES;
        states[lane] = group[lane % GROUP_LANES] | uint32_t(group[lane % GROUP_LANES + GROUP_LANES])
                                                       << 8;
    }

    const uint8_t* from = stream.bytes;
    uint64_t missing_bytes = 0;
    uint64_t n_escapes = 0;
    raw += stream.first_step * step_raw_bytes(map);
    uint64_t row = stream.first_step / target.steps_per_row;
    uint64_t step_in_row = stream.first_step % target.steps_per_row;
    for (uint64_t step = 0; step < stream.n_steps; ++step) {
        // A step takes at most a byte a lane, so one check a step is enough. Untrusted: the stream
        // may be too short for its states. Its last steps read a copy with zeros behind it, and
        // what was missing is reported.
        uint8_t last_bytes[LANES] = {};
        const uint64_t n_left = static_cast<uint64_t>(stream.bytes_end - from);
        const uint8_t* next = from;
        if (n_left < LANES) {
            std::memcpy(last_bytes, from, n_left);
            next = last_bytes;
        }
        const uint8_t* const step_begin = next;
        uint32_t entries[LANES];
        uint32_t any_entry = 0;
        for (uint32_t lane = 0; lane < LANES; ++lane) {
            const uint32_t entry = table.entry[states[lane] & (SCALE - 1)];
            const uint32_t x = (entry & 0xFF) * (states[lane] >> 8) + (entry >> 8 & 0xFF);
            // Whether a byte is due is as good as random, so no branch: 8 or 0, 0xFF or 0.
            const uint32_t due = x < STATE_LOWER;
            states[lane] = x << (due << 3) | (*next & (0u - due));
            next += due;
            entries[lane] = entry;
            any_entry |= entry;
        }
        const uint64_t n_taken = static_cast<uint64_t>(next - step_begin);
        from += std::min(n_taken, n_left);
        missing_bytes += n_taken - std::min(n_taken, n_left);

        uint16_t values[LANES];
        for (uint32_t lane = 0; lane < LANES; ++lane)
            values[lane] = static_cast<uint16_t>(entries[lane] >> 16);
        if (any_entry & ENTRY_ESCAPE) {
            for (uint32_t lane = 0; lane < LANES; ++lane)
                if (entries[lane] & ENTRY_ESCAPE)
                    values[lane] = escape_value(map, stream, n_escapes++);
        }
        join_step_scalar(
            form, values, raw,
            target.base + row * target.row_stride + step_in_row * LANES * map.unit_bytes);
        raw += step_raw_bytes(map);
        if (++step_in_row == target.steps_per_row) {
            step_in_row = 0;
            ++row;
        }
    }

    stream.consumed =
        missing_bytes == 0 && from == stream.bytes_end && n_escapes == stream.n_escapes;
    stream.final_states = true;
    for (uint32_t lane = 0; lane < LANES; ++lane)
        stream.final_states &= states[lane] == FINAL_STATE;
}

void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead&) {
    DecodeTable decode;
    build_decode_table(table, decode);
    for (uint32_t s = 0; s < n_streams; ++s) decode_stream(form, decode, streams[s], raw, target);
}

template <typename Word>
void survey(const uint8_t* words, size_t n, Survey& survey) {
    constexpr unsigned TOP_SHIFT = 8 * sizeof(Word) - 16 + CODE_SHIFT;
    constexpr unsigned WORD_BITS = 8 * sizeof(Word);
    constexpr size_t N_TOGETHER = sizeof(uint64_t) / sizeof(Word);
    // Neighbours often have the same code, and to count one number up again at once takes the
    // processor long, so neighbours count in tables of their own.
    constexpr size_t N_TABLES = 8;
    uint32_t counts[N_TABLES][N_CODES] = {};
    uint64_t any = 0;
    size_t i = 0;
    for (; n - i >= N_TABLES; i += N_TABLES) {
        for (size_t j = 0; j < N_TABLES; j += N_TOGETHER) {
            const uint64_t together = read_as<uint64_t>(words + (i + j) * sizeof(Word));
            any |= together;
            for (size_t k = 0; k < N_TOGETHER; ++k)
                ++counts[j + k][together >> (TOP_SHIFT + WORD_BITS * k) & (N_CODES - 1)];
        }
    }
    for (; i < n; ++i) {
        const Word word = read_as<Word>(words + i * sizeof(Word));
        any |= word;
        ++counts[0][word >> TOP_SHIFT & (N_CODES - 1)];
    }
    for (unsigned shift = 32; shift >= WORD_BITS; shift /= 2) any |= any >> shift;
    for (uint32_t code = 0; code < N_CODES; ++code)
        for (size_t j = 1; j < N_TABLES; ++j) counts[0][code] += counts[j][code];
    std::memcpy(survey.counts, counts[0], sizeof survey.counts);
    survey.any = static_cast<Word>(any);
}

void survey_bytes(const uint8_t* bytes, size_t n, Survey& survey) {
    uint32_t counts[4][256] = {};
    size_t i = 0;
    for (; n - i >= 4; i += 4)
        for (size_t j = 0; j < 4; ++j) ++counts[j][bytes[i + j]];
    for (; i < n; ++i) ++counts[0][bytes[i]];
    std::memset(survey.counts, 0, sizeof survey.counts);
    survey.any = 0;
    for (uint32_t byte = 0; byte < 256; ++byte) {
        const uint32_t count =
            counts[0][byte] + counts[1][byte] + counts[2][byte] + counts[3][byte];
        survey.counts[byte << BYTE_SHIFT >> CODE_SHIFT] = count;
        if (count != 0) survey.any |= byte;
    }
}

// Writes a value as the i-th entry of the escape lists.
void put_escape(const FieldMap& map, uint16_t value, EncodeStream& stream, uint64_t i) {
    if (map.n_escape_lists == 1) {
        stream.escapes_high[i] = static_cast<uint8_t>(value >> map.escape_shift);
    } else {
        stream.escapes_high[i] = static_cast<uint8_t>(value >> 8);
        stream.escapes_low[i] = static_cast<uint8_t>(value);
    }
}

void encode_stream(const FieldMap& map, const FrequencyTable& table, EncodeStream& stream,
                   Fetcher&) {
    // Symbol of each code; codes without one are escapes. Without an escape symbol the caller's
    // table covers every value.
    uint8_t symbol_of[N_CODES];
    std::memset(symbol_of,
                table.escape == NO_ESCAPE ? NO_SYMBOL : static_cast<uint8_t>(table.escape),
                sizeof symbol_of);
    Symbol symbols[MAX_SYMBOLS];
    uint32_t cum = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        if (i != table.escape) symbol_of[table.value[i] >> CODE_SHIFT] = static_cast<uint8_t>(i);
        const uint32_t f = table.frequency[i];
        symbols[i] = {f, cum, ((uint64_t(1) << 32) + f - 1) / f};
        cum += f;
    }

    uint32_t states[LANES];
    for (uint32_t lane = 0; lane < LANES; ++lane) states[lane] = FINAL_STATE;
    uint8_t* to = stream.bytes_end;
    // Escapes too are met backwards: they are listed from the ends of their rooms.
    const uint64_t n_lanes = stream.n_steps * LANES;
    uint64_t escapes_begin = n_lanes;
    for (uint64_t step = stream.n_steps; step-- > 0;) {
        const uint16_t* values = stream.values + step * LANES;
        for (uint32_t lane = LANES; lane-- > 0;) {
            const uint32_t index = symbol_of[values[lane] >> CODE_SHIFT];
            const Symbol& symbol = symbols[index];
            uint32_t x = states[lane];
            // C(s, x) must stay below 2^16: x / f < 256. If not, the low byte leaves first; x / f
            // of the rest is at least 1, because x >= 256 f. Without a branch: the byte is stored
            // either way and counts where it leaves.
            const uint32_t leaves = (x >> 8) >= symbol.frequency;
            to[-1] = static_cast<uint8_t>(x);
            to -= leaves;
            x >>= leaves << 3;
            const uint32_t quotient = static_cast<uint32_t>(x * symbol.reciprocal >> 32);
            states[lane] = (quotient << 8) + (x - quotient * symbol.frequency) + symbol.cum;
            if (index == table.escape) {
                --escapes_begin;
                put_escape(map, values[lane], stream, escapes_begin);
            }
        }
    }
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);
    stream.n_escapes = n_lanes - escapes_begin;
    std::memmove(stream.escapes_high, stream.escapes_high + escapes_begin, stream.n_escapes);
    if (map.n_escape_lists == 2)
        std::memmove(stream.escapes_low, stream.escapes_low + escapes_begin, stream.n_escapes);

    for (uint32_t lane = 0; lane < LANES; ++lane) {
        uint8_t* group = stream.states + lane / GROUP_LANES * 2 * GROUP_LANES;
        group[lane % GROUP_LANES] = static_cast<uint8_t>(states[lane]);
        group[lane % GROUP_LANES + GROUP_LANES] = static_cast<uint8_t>(states[lane] >> 8);
    }
}

}  // namespace

void survey_words_scalar(const uint8_t* words, size_t n, uint32_t w, uint32_t, Survey& result) {
    if (w == 1) {
        survey_bytes(words, n, result);
    } else if (w == 2) {
        survey<uint16_t>(words, n, result);
    } else {
        survey<uint32_t>(words, n, result);
    }
}

// None: rans32_units.cpp does all of them.
size_t join_words_scalar(const WordJoin&, const uint8_t*, size_t, const uint8_t*, uint8_t*) {
    return 0;
}

const Kernels SCALAR_KERNELS = {
    "scalar",          crc32_scalar,   survey_words_scalar,       split_steps_scalar,
    encode_stream,     decode_streams, encode_token_steps_scalar, decode_token_steps_scalar,
    join_words_scalar,
};

}  // namespace wcodec
