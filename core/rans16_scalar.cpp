// SPDX-License-Identifier: Apache-2.0
//
// THE reference coder of rans16. Read docs/rans.md beside it; three things to know first:
//
// 1. A state x is a 16-bit number in [256, 65536). Encoding symbol s with frequency f and
// cumulative c maps x to
//    C(s, x) = (x / f) << 8 | (x % f + c), which grows x by about 256 / f; decoding, D(x), undoes
//    exactly that.
// 2. So the encoder works backwards: it codes the last step first and writes bytes from the end
// towards the front. The decoder then
//    runs forward and reads forward, and ends with every state at 256, where the encoder began.
// 3. 128 lanes have a state each and share one byte string. When the decoder has decoded lane p and
// its state fell below 256,
//    lane p takes the next byte. The encoder visits lanes in the exact reverse order, so no byte
//    needs an address.
//
// Why one byte is always enough (decoding): x >> 8 >= 1 and f >= 1 give x' = f * (x >> 8) + slot -
// c >= 1, and 1 << 8 >= 256. Why it never overflows: f <= 255, x >> 8 <= 255, slot - c <= f - 1
// give x' <= 255 * 255 + 254 = 65279.
#include <cstring>

#include "bytes.hpp"
#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

namespace wcodec {
namespace {

constexpr uint8_t NO_SYMBOL = 255;

void encode_stream(const FieldMap& map, const FrequencyTable& table, EncodeStream& stream) {
    // Symbol of each code; codes without one are escapes. Without an escape symbol the caller's
    // table covers every value.
    uint8_t symbol_of[N_CODES];
    std::memset(symbol_of,
                table.escape == NO_ESCAPE ? NO_SYMBOL : static_cast<uint8_t>(table.escape),
                sizeof symbol_of);
    uint32_t cum[MAX_SYMBOLS];
    uint32_t sum = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        if (i != table.escape) symbol_of[table.value[i] >> CODE_SHIFT] = static_cast<uint8_t>(i);
        cum[i] = sum;
        sum += table.frequency[i];
    }

    // Escapes are listed forwards, as the decoder meets them.
    uint64_t n_escapes = 0;
    if (table.escape != NO_ESCAPE) {
        for (uint64_t i = 0; i < stream.n_steps * LANES; ++i) {
            const uint16_t value = stream.values[i];
            if (symbol_of[value >> CODE_SHIFT] != table.escape) continue;
            if (map.n_escape_lists == 1) {
                stream.escapes_high[n_escapes] = static_cast<uint8_t>(value >> map.escape_shift);
            } else {
                stream.escapes_high[n_escapes] = static_cast<uint8_t>(value >> 8);
                stream.escapes_low[n_escapes] = static_cast<uint8_t>(value);
            }
            ++n_escapes;
        }
    }
    stream.n_escapes = n_escapes;

    uint32_t states[LANES];
    for (uint32_t lane = 0; lane < LANES; ++lane) states[lane] = FINAL_STATE;
    uint8_t* to = stream.bytes_end;
    for (uint64_t step = stream.n_steps; step-- > 0;) {
        const uint16_t* values = stream.values + step * LANES;
        for (uint32_t lane = LANES; lane-- > 0;) {
            const uint32_t i = symbol_of[values[lane] >> CODE_SHIFT];
            const uint32_t f = table.frequency[i];
            uint32_t x = states[lane];
            // C(s, x) must stay below 2^16: x / f < 256. If not, the low byte leaves first; x / f
            // of the rest is at least 1, because x >= 256 f.
            if ((x >> 8) >= f) {
                *--to = static_cast<uint8_t>(x);
                x >>= 8;
            }
            states[lane] = (x / f) << 8 | (x % f + cum[i]);
        }
    }
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);

    for (uint32_t lane = 0; lane < LANES; ++lane) {
        uint8_t* group = stream.states + lane / GROUP_LANES * 2 * GROUP_LANES;
        group[lane % GROUP_LANES] = static_cast<uint8_t>(states[lane]);
        group[lane % GROUP_LANES + GROUP_LANES] = static_cast<uint8_t>(states[lane] >> 8);
    }
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
        uint16_t values[LANES];
        for (uint32_t lane = 0; lane < LANES; ++lane) {
            uint32_t x = states[lane];
            const uint32_t entry = table.entry[x & (SCALE - 1)];
            x = (entry & 0xFF) * (x >> 8) + (entry >> 8 & 0xFF);
            if (x < STATE_LOWER) {
                // Untrusted: the stream may be too short for its states. It then decodes to
                // something, and is reported.
                uint32_t byte = 0;
                if (from < stream.bytes_end) {
                    byte = *from++;
                } else {
                    ++missing_bytes;
                }
                x = x << 8 | byte;
            }
            states[lane] = x;
            uint32_t value = entry >> 16;
            if (entry & ENTRY_ESCAPE) {
                value = 0;
                if (n_escapes < stream.n_escapes) {
                    const uint8_t* escape = stream.escapes + n_escapes;
                    value = map.n_escape_lists == 1
                                ? uint32_t(*escape) << map.escape_shift
                                : uint32_t(*escape) << 8 | escape[stream.n_escapes];
                    value &= map.value_mask;
                }
                ++n_escapes;
            }
            values[lane] = static_cast<uint16_t>(value);
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
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target) {
    DecodeTable decode;
    build_decode_table(table, decode);
    for (uint32_t s = 0; s < n_streams; ++s) decode_stream(form, decode, streams[s], raw, target);
}

template <typename Word>
void survey(const uint8_t* words, size_t n, Survey& survey) {
    constexpr unsigned TOP_SHIFT = 8 * sizeof(Word) - 16 + CODE_SHIFT;
    const Word first = read_as<Word>(words);
    Word any = 0;
    Word different = 0;
    std::memset(survey.counts, 0, sizeof survey.counts);
    for (size_t i = 0; i < n; ++i) {
        const Word word = read_as<Word>(words + i * sizeof(Word));
        any |= word;
        different |= word ^ first;
        ++survey.counts[word >> TOP_SHIFT & (N_CODES - 1)];
    }
    survey.any = any;
    survey.constant = different == 0;
}

void survey_words(const uint8_t* words, size_t n, uint32_t w, Survey& result) {
    if (w == 2) {
        survey<uint16_t>(words, n, result);
    } else {
        survey<uint32_t>(words, n, result);
    }
}

}  // namespace

const Kernels SCALAR_KERNELS = {
    "scalar", crc32_scalar, survey_words, split_steps_scalar, encode_stream, decode_streams,
};

}  // namespace wcodec
