// SPDX-License-Identifier: Apache-2.0
//
// Framing of blocks, raw and constant codings, and the payload of rans16: its parts in the order of
// docs/format.md section 8.
#include "block.hpp"

#include <algorithm>

#include "frequency_table.hpp"
#include "planes.hpp"
#include "rans32_block.hpp"
#include "spatial_block.hpp"

namespace wcodec {
namespace {

constexpr uint32_t RANS16_HEAD_BYTES = 4;
constexpr uint32_t STREAM_SIZES_BYTES = 8;

uint64_t steps_of_stream(uint64_t n_steps, uint32_t n_streams, uint32_t s) {
    return n_steps / n_streams + (s < n_steps % n_streams ? 1 : 0);
}

uint64_t streams_offset(uint32_t n_symbols, uint32_t n_streams) {
    return align_up(RANS16_HEAD_BYTES + STREAM_SIZES_BYTES * n_streams + table_bytes(n_symbols),
                    BLOCK_ALIGNMENT);
}

// Writes the zero bytes from `size` up to the next multiple of BLOCK_ALIGNMENT; returns the place
// behind them.
uint8_t* pad(uint8_t* to, uint64_t size) {
    const uint64_t padded = align_up(size, BLOCK_ALIGNMENT);
    std::memset(to + size, 0, padded - size);
    return to + padded;
}

void gather_rows(const BlockView& view, uint8_t* to) {
    if (view.contiguous()) {
        std::memcpy(to, view.base, view.n_bytes());
        return;
    }
    for (uint32_t r = 0; r < view.rows; ++r)
        std::memcpy(to + r * view.row_bytes(), view.row(r), view.row_bytes());
}

void scatter_rows(const uint8_t* from, const BlockView& view) {
    for (uint32_t r = 0; r < view.rows; ++r)
        std::memcpy(view.row(r), from + r * view.row_bytes(), view.row_bytes());
}

bool rows_equal(const uint8_t* expected, const BlockView& view) {
    if (view.contiguous()) return std::memcmp(view.base, expected, view.n_bytes()) == 0;
    for (uint32_t r = 0; r < view.rows; ++r)
        if (std::memcmp(view.row(r), expected + r * view.row_bytes(), view.row_bytes()) != 0)
            return false;
    return true;
}

void fill_rows(const uint8_t* unit, const BlockView& view) {
    for (uint32_t r = 0; r < view.rows; ++r) {
        uint8_t* row = view.row(r);
        std::memcpy(row, unit, view.unit_bytes);
        // Doubling copies: what is filled so far is copied behind itself.
        for (uint64_t filled = view.unit_bytes; filled < view.row_bytes();) {
            const uint64_t size = std::min(filled, view.row_bytes() - filled);
            std::memcpy(row + filled, row, size);
            filled += size;
        }
    }
}

void seal(uint8_t* block, BlockHeader& header) {
    const uint8_t* end = pad(block + BLOCK_HEADER_BYTES, header.payload_bytes);
    std::memcpy(block, &header, sizeof header);
    const uint8_t* sealed = block + sizeof header.crc;
    header.crc = kernels().crc32(sealed, static_cast<size_t>(end - sealed), 0);
    std::memcpy(block, &header.crc, sizeof header.crc);
}

// ---- encoding ----

// Parts of the encoder's scratch memory, for n units.
struct EncodeScratch {
    uint8_t* words;  // a copy of the units
    uint8_t* block;
    uint8_t* block_end;  // READ_SLACK_BYTES follow
    uint8_t* decoded;    // what is compared with the units
    uint8_t* decoding;   // of the decoder
    uint8_t* coding;     // of the coding

    EncodeScratch(uint8_t* memory, uint8_t family, uint64_t n, uint32_t w) {
        words = memory;
        block = words + align_up(n * w, 64);
        block_end = block + block_bytes(n * w);
        decoded = block + align_up(block_bytes(n * w), 64) + READ_SLACK_BYTES;
        decoding = decoded + align_up(n * w, 64);
        coding = decoding + align_up(decode_scratch_bytes(family, n, w), 64);
    }
    static uint64_t size(uint8_t family, uint64_t n, uint32_t w) {
        return 2 * align_up(n * w, 64) + align_up(block_bytes(n * w), 64) + READ_SLACK_BYTES +
               align_up(decode_scratch_bytes(family, n, w), 64);
    }
};

// Working memory of rans16.
struct Rans16Scratch {
    uint16_t* values;  // of one stream; before that, a sample of the units
    uint8_t* bytes;    // of the streams, each behind WRITE_SLACK_BYTES
    uint8_t* escapes;  // high bytes and, n further on, low bytes

    Rans16Scratch(uint8_t* memory, uint64_t n) {
        values = reinterpret_cast<uint16_t*>(memory);
        bytes = memory + align_up(2 * n, 64);
        escapes = bytes + align_up(n, 64) + MAX_STREAMS * WRITE_SLACK_BYTES;
    }
    static uint64_t size(uint64_t n) {
        return 2 * align_up(2 * n, 64) + align_up(n, 64) + MAX_STREAMS * WRITE_SLACK_BYTES;
    }
};

struct FormChoice {
    Form form;
    uint64_t cost;  // of symbols, escapes, table and raw fields, in 1 / COST_UNIT bits
    FrequencyTable table;
};

// The bits of codes that the forms of the set look at.
uint32_t code_mask_of(uint32_t form_set, uint32_t w) {
    uint32_t mask = 0;
    for (uint32_t form = 1; form < N_FORMS; ++form)
        if ((form_set >> form & 1) && FIELD_MAPS[form].unit_bytes == w)
            mask |= FIELD_MAPS[form].value_mask >> CODE_SHIFT;
    return mask == 0 ? N_CODES - 1 : mask;
}

// The cheapest form of the set that can hold these words.
FormChoice choose_form(const Survey& survey, uint64_t n_units, uint32_t w, uint32_t form_set) {
    FormChoice best{FORM_NONE, UINT64_MAX, {}};
    uint32_t most_zero_bits = 0;
    for (uint32_t form = 1; form < N_FORMS; ++form) {
        const uint32_t zero_bits = FIELD_MAPS[form].zero_bits;
        if ((form_set >> form & 1) && (survey.any & ((1u << zero_bits) - 1)) == 0)
            most_zero_bits = std::max(most_zero_bits, zero_bits);
    }
    for (uint32_t form = 1; form < N_FORMS; ++form) {
        const FieldMap& map = FIELD_MAPS[form];
        if (!(form_set >> form & 1) || map.unit_bytes != w || map.zero_bits != most_zero_bits)
            continue;
        uint32_t counts[N_CODES] = {};
        for (uint32_t code = 0; code < N_CODES; ++code)
            counts[code & (map.value_mask >> CODE_SHIFT)] += survey.counts[code];
        FormChoice choice{static_cast<Form>(form), 0, {}};
        build_frequency_table(counts, n_units, map, choice.table);
        choice.cost = coded_cost(counts, map, choice.table) +
                      n_units * step_raw_bytes(map) * 8 / LANES * COST_UNIT;
        if (choice.cost < best.cost) best = choice;
    }
    return best;
}

// A block of this size is surveyed by a quarter of its units, which makes it larger by a 10,000th.
// (Measured: benchmarks/sizes.csv.)
constexpr uint64_t MIN_SAMPLED_UNITS = uint64_t(1) << 15;
constexpr uint32_t SAMPLED_LOG2 = 2;

// Copies the sample to `to`: one group of four, now this one and now that, so that it takes no side
// in rows or columns. Returns the number of its units.
uint64_t take_sample(const uint8_t* words, uint64_t n, uint32_t w, uint8_t* to) {
    const uint64_t group_bytes = uint64_t(GROUP_LANES) * w;
    const uint64_t n_groups = n / GROUP_LANES >> SAMPLED_LOG2;
    for (uint64_t i = 0; i < n_groups; ++i) {
        const uint32_t which = static_cast<uint32_t>(i) * 0x9E3779B1u >> (32 - SAMPLED_LOG2);
        const uint64_t from = ((i << SAMPLED_LOG2) + which) * group_bytes;
        std::memcpy(to + i * group_bytes, words + from, group_bytes);
    }
    return n_groups * GROUP_LANES;
}

// Whether a form chosen by a sample can hold all units: those may have other low bits, and codes
// that the sample has not, which need an escape.
bool holds_all(const FormChoice& choice) {
    if (choice.form == FORM_NONE) return true;
    const FieldMap& map = FIELD_MAPS[choice.form];
    const uint32_t n_codes = 1u << std::popcount(map.value_mask);
    return map.zero_bits == 0 &&
           (choice.table.escape != NO_ESCAPE || choice.table.n_symbols == n_codes);
}

FormChoice choose_form(const uint8_t* words, uint64_t n, uint32_t w, uint32_t form_set,
                       const Rans16Scratch& scratch) {
    const uint32_t code_mask = code_mask_of(form_set, w);
    Survey survey;
    if (n >= MIN_SAMPLED_UNITS) {
        uint8_t* const sample = reinterpret_cast<uint8_t*>(scratch.values);
        const uint64_t n_sampled = take_sample(words, n, w, sample);
        kernels().survey_words(sample, n_sampled, w, code_mask, survey);
        FormChoice choice = choose_form(survey, n_sampled, w, form_set);
        if (holds_all(choice)) {
            choice.cost = choice.cost * n / n_sampled;
            return choice;
        }
    }
    kernels().survey_words(words, n, w, code_mask, survey);
    return choose_form(survey, n, w, form_set);
}

// Code the units with rans16, unless that would not be smaller than the units themselves. The block
// is put together at the end of its room: the size of the raw fields and of the tail is known
// beforehand, so they are written where they stay, and the rest is put before them.
void encode_rans16(const uint8_t* words, uint64_t n, uint32_t w, const EncodeOptions& options,
                   const EncodeScratch& parts, EncodedBlock& block, const Ahead& ahead) {
    const Rans16Scratch scratch(parts.coding, n);
    const uint32_t n_streams = options.n_streams;
    const uint64_t n_steps = n / LANES;
    if (n_steps < n_streams) return;
    const FormChoice choice = choose_form(words, n, w, options.form_set, scratch);
    if (choice.form == FORM_NONE) return;
    const uint64_t states_cost = uint64_t(STATES_BYTES) * n_streams * 8 * COST_UNIT;
    if (choice.cost + states_cost >= n * w * 8 * COST_UNIT) return;
    const FieldMap& map = FIELD_MAPS[choice.form];
    const FrequencyTable& table = choice.table;

    const uint64_t raw_bytes = n_steps * step_raw_bytes(map);
    const uint64_t tail_bytes = n % LANES * w;
    uint8_t* const raw = parts.block_end - align_up(raw_bytes + tail_bytes, BLOCK_ALIGNMENT);
    std::memcpy(raw + raw_bytes, words + n_steps * LANES * w, tail_bytes);

    uint8_t states[MAX_STREAMS][STATES_BYTES];
    EncodeStream streams[MAX_STREAMS];
    Fetcher fetcher = fetch_over(ahead, n_steps);
    uint64_t first_step = 0;
    uint64_t coded_bytes = streams_offset(table.n_symbols, n_streams);
    for (uint32_t s = 0; s < n_streams; ++s) {
        EncodeStream& stream = streams[s];
        stream.values = scratch.values;
        stream.n_steps = steps_of_stream(n_steps, n_streams, s);
        stream.states = states[s];
        stream.escapes_high = scratch.escapes + first_step * LANES;
        stream.escapes_low = stream.escapes_high + n;
        // Stream by stream, so that its values are still in the cache.
        kernels().split_steps(choice.form, words + first_step * LANES * w, stream.n_steps,
                              scratch.values, raw + first_step * step_raw_bytes(map));
        first_step += stream.n_steps;
        stream.bytes_end = scratch.bytes + (s + 1) * WRITE_SLACK_BYTES + first_step * LANES;
        kernels().encode_stream(map, table, stream, fetcher);
        coded_bytes += STATES_BYTES + align_up(stream.n_bytes, BLOCK_ALIGNMENT);
        coded_bytes += align_up(stream.n_escapes * map.n_escape_lists, BLOCK_ALIGNMENT);
    }
    const uint64_t total = coded_bytes + raw_bytes + tail_bytes;
    if (total >= n * w) return;

    uint8_t* const payload = raw - coded_bytes;
    payload[0] = static_cast<uint8_t>(table.n_symbols);
    payload[1] = static_cast<uint8_t>(table.escape);
    write_as<uint16_t>(payload + 2, 0);
    uint8_t* to = payload + RANS16_HEAD_BYTES;
    for (uint32_t s = 0; s < n_streams; ++s, to += STREAM_SIZES_BYTES) {
        write_as(to, static_cast<uint32_t>(streams[s].n_bytes));
        write_as(to + 4, static_cast<uint32_t>(streams[s].n_escapes));
    }
    write_frequency_table(table, to);
    to += table_bytes(table.n_symbols);
    uint8_t* const streams_at = payload + streams_offset(table.n_symbols, n_streams);
    std::memset(to, 0, static_cast<size_t>(streams_at - to));
    to = streams_at;
    for (uint32_t s = 0; s < n_streams; ++s) {
        std::memcpy(to, streams[s].states, STATES_BYTES);
        to += STATES_BYTES;
        std::memcpy(to, streams[s].bytes_end - streams[s].n_bytes, streams[s].n_bytes);
        to = pad(to, streams[s].n_bytes);
    }
    for (uint32_t s = 0; s < n_streams; ++s) {
        const uint64_t size = streams[s].n_escapes;
        std::memcpy(to, streams[s].escapes_high, size);
        if (map.n_escape_lists == 2) std::memcpy(to + size, streams[s].escapes_low, size);
        to = pad(to, size * map.n_escape_lists);
    }
    block = {{0, CODING_RANS16, choice.form, static_cast<uint8_t>(n_streams), 0, total},
             payload - BLOCK_HEADER_BYTES};
}

// ---- decoding ----

struct Rans16Payload {
    FrequencyTable table;
    DecodeStream streams[MAX_STREAMS];
    const uint8_t* raw;
    const uint8_t* tail;
};

// Find and check the parts of a payload. Everything in it is untrusted; each size is bounded by the
// number of units (at most 2^24) before it is added up, so that no sum overflows.
Status parse_rans16(const uint8_t* payload, uint64_t payload_bytes, Form form, uint32_t n_streams,
                    uint64_t n, Rans16Payload& parsed) {
    const FieldMap& map = FIELD_MAPS[form];
    const uint64_t sizes_end = RANS16_HEAD_BYTES + uint64_t(STREAM_SIZES_BYTES) * n_streams;
    if (payload_bytes < sizes_end) return Status::BAD_PAYLOAD_BYTES;
    const uint32_t n_symbols = payload[0];
    const uint32_t escape = payload[1];
    if (read_as<uint16_t>(payload + 2) != 0) return Status::RESERVED_NOT_ZERO;
    if (n_symbols < MIN_SYMBOLS || n_symbols > MAX_SYMBOLS) return Status::BAD_FREQUENCY_TABLE;

    const uint64_t n_steps = n / LANES;
    uint64_t at = streams_offset(n_symbols, n_streams);
    uint64_t total = at;
    uint64_t first_step = 0;
    for (uint32_t s = 0; s < n_streams; ++s) {
        DecodeStream& stream = parsed.streams[s];
        const uint64_t stream_bytes =
            read_as<uint32_t>(payload + RANS16_HEAD_BYTES + STREAM_SIZES_BYTES * s);
        stream.n_escapes =
            read_as<uint32_t>(payload + RANS16_HEAD_BYTES + STREAM_SIZES_BYTES * s + 4);
        stream.first_step = first_step;
        stream.n_steps = steps_of_stream(n_steps, n_streams, s);
        first_step += stream.n_steps;
        if (stream_bytes > stream.n_steps * LANES || stream.n_escapes > stream.n_steps * LANES)
            return Status::BAD_STREAM_SIZE;
        if (escape == NO_ESCAPE && stream.n_escapes != 0) return Status::BAD_STREAM_SIZE;
        stream.states = payload + total;
        stream.bytes = stream.states + STATES_BYTES;
        stream.bytes_end = stream.bytes + stream_bytes;
        total += STATES_BYTES + align_up(stream_bytes, BLOCK_ALIGNMENT);
    }
    for (uint32_t s = 0; s < n_streams; ++s) {
        parsed.streams[s].escapes = payload + total;
        total += align_up(parsed.streams[s].n_escapes * map.n_escape_lists, BLOCK_ALIGNMENT);
    }
    parsed.raw = payload + total;
    total += n_steps * step_raw_bytes(map);
    parsed.tail = payload + total;
    total += n % LANES * map.unit_bytes;
    if (total != payload_bytes) return Status::BAD_PAYLOAD_BYTES;

    // From here on every part lies inside the payload.
    const Status status =
        read_frequency_table(payload + sizes_end, n_symbols, escape, map, parsed.table);
    if (status != Status::OK) return status;
    bool padding_zero = all_zero(payload + sizes_end + table_bytes(n_symbols), payload + at);
    for (uint32_t s = 0; s < n_streams; ++s) {
        const DecodeStream& stream = parsed.streams[s];
        const uint64_t stream_bytes = static_cast<uint64_t>(stream.bytes_end - stream.bytes);
        // The high bytes of each group follow its low bytes.
        for (uint32_t group = 0; group < STATES_BYTES; group += 2 * GROUP_LANES) {
            const uint8_t* high = stream.states + group + GROUP_LANES;
            if (std::find(high, high + GROUP_LANES, 0) != high + GROUP_LANES)
                return Status::BAD_STARTING_STATE;
        }
        padding_zero &=
            all_zero(stream.bytes_end, stream.bytes + align_up(stream_bytes, BLOCK_ALIGNMENT));
        const uint64_t escape_bytes = stream.n_escapes * map.n_escape_lists;
        padding_zero &= all_zero(stream.escapes + escape_bytes,
                                 stream.escapes + align_up(escape_bytes, BLOCK_ALIGNMENT));
    }
    return padding_zero ? Status::OK : Status::PADDING_NOT_ZERO;
}

// Check header and payload of a rans16 block, and find the parts of the payload.
Status open_rans16(const uint8_t* payload, const BlockHeader& header, uint64_t n, uint32_t w,
                   Rans16Payload& parsed) {
    if (header.form == FORM_NONE || header.form >= N_FORMS) return Status::BAD_FORM;
    const Form form = static_cast<Form>(header.form);
    if (FIELD_MAPS[form].unit_bytes != w) return Status::BAD_FORM;
    if (header.n_streams != 1 && header.n_streams != 2 && header.n_streams != 4)
        return Status::BAD_N_STREAMS;
    return parse_rans16(payload, header.payload_bytes, form, header.n_streams, n, parsed);
}

Status decode_rans16(const uint8_t* payload, const BlockHeader& header, const BlockView& view,
                     uint8_t* scratch, const DecodeHints& hints) {
    const uint64_t n = view.n_units();
    const Form form = static_cast<Form>(header.form);
    Rans16Payload parsed;
    const Status status = open_rans16(payload, header, n, view.unit_bytes, parsed);
    if (status != Status::OK) return status;

    // Steps are written in place where each lies within one row: in contiguous blocks, and in those
    // of a width that is a multiple of 128. Others (a ragged last column band, rows sorted into
    // groups) go through scratch memory.
    const uint64_t n_steps = n / LANES;
    const bool in_place = view.contiguous() || (!view.row_index && view.cols % LANES == 0);
    StepTarget target{in_place ? view.base : scratch, 0, std::max<uint64_t>(n_steps, 1), false};
    if (in_place && !view.contiguous())
        target = {view.base, view.row_stride, view.cols / LANES, false};
    target.streaming = hints.streaming && in_place &&
                       reinterpret_cast<uintptr_t>(target.base) % STREAMING_ALIGNMENT == 0 &&
                       target.row_stride % STREAMING_ALIGNMENT == 0;
    kernels().decode_streams(form, parsed.table, parsed.streams, header.n_streams, parsed.raw,
                             target, hints.ahead);
    for (uint32_t s = 0; s < header.n_streams; ++s) {
        if (!parsed.streams[s].consumed) return Status::STREAM_NOT_CONSUMED;
        if (!parsed.streams[s].final_states) return Status::BAD_FINAL_STATE;
    }
    // Strided blocks in place have no tail: their width is a multiple of 128.
    if (n % LANES != 0)
        std::memcpy(target.base + n_steps * LANES * view.unit_bytes, parsed.tail,
                    n % LANES * view.unit_bytes);
    if (!in_place) scatter_rows(scratch, view);
    return Status::OK;
}

// Check all of a block that does not depend on its coding.
Status check_frame(const uint8_t* from, const BlockHeader& header) {
    if (std::memcmp(from, &header, sizeof header) != 0) return Status::HEADER_MISMATCH;
    const uint8_t* payload = from + BLOCK_HEADER_BYTES;
    const uint64_t padded = align_up(header.payload_bytes, BLOCK_ALIGNMENT);
    const uint32_t crc = kernels().crc32(from + sizeof header.crc,
                                         BLOCK_HEADER_BYTES - sizeof header.crc + padded, 0);
    if (crc != header.crc) return Status::CRC_MISMATCH;
    if (header.reserved != 0) return Status::RESERVED_NOT_ZERO;
    return all_zero(payload + header.payload_bytes, payload + padded) ? Status::OK
                                                                      : Status::PADDING_NOT_ZERO;
}

// Check the header of a block of coding raw or constant, of n units.
Status check_plain(const BlockHeader& header, uint64_t n, uint32_t w) {
    if (header.coding != CODING_RAW && header.coding != CODING_CONSTANT) return Status::BAD_CODING;
    if (header.form != 0) return Status::BAD_FORM;
    if (header.n_streams != 0) return Status::BAD_N_STREAMS;
    return header.payload_bytes == (header.coding == CODING_RAW ? n * w : w)
               ? Status::OK
               : Status::BAD_PAYLOAD_BYTES;
}

Status decode_payload(const uint8_t* payload, const BlockHeader& header, uint8_t family,
                      const BlockView& view, uint8_t* scratch, const DecodeHints& hints) {
    if (header.coding == family && (family == CODING_LZ || family == CODING_ROW_GROUPS)) {
        if (header.form > 1) return Status::BAD_FORM;
        return header.n_streams == 0 ? Status::OK : Status::BAD_N_STREAMS;
    }
    if (header.coding == CODING_RANS16 && family == CODING_RANS16)
        return decode_rans16(payload, header, view, scratch, hints);
    if (header.coding == CODING_SPATIAL && family == CODING_SPATIAL) {
        if (header.form >= N_SPATIAL_FORMS || view.unit_bytes > 4) return Status::BAD_FORM;
        if (header.n_streams != 0) return Status::BAD_N_STREAMS;
        // A block that has its units together is decoded in its place.
        uint8_t* units = view.contiguous() ? view.base : scratch;
        const Status status = decode_spatial(
            payload, header.payload_bytes, static_cast<SpatialForm>(header.form), view.rows,
            view.cols, view.unit_bytes, scratch + align_up(view.n_bytes(), 64), units);
        if (status == Status::OK && !view.contiguous()) scatter_rows(scratch, view);
        return status;
    }
    if (header.coding == CODING_RANS32 && family == CODING_RANS32) {
        if (header.form >= N_RANS32_FORMS) return Status::BAD_FORM;
        if (header.n_streams != 0) return Status::BAD_N_STREAMS;
        uint8_t* units = view.contiguous() ? view.base : scratch;
        const Status status = decode_rans32(
            payload, header.payload_bytes, static_cast<Rans32Form>(header.form), view.rows,
            view.cols, view.unit_bytes, scratch + align_up(view.n_bytes(), 64), units);
        if (status == Status::OK && !view.contiguous()) scatter_rows(scratch, view);
        return status;
    }
    const Status status = check_plain(header, view.n_units(), view.unit_bytes);
    if (status != Status::OK) return status;
    if (header.coding == CODING_RAW) {
        scatter_rows(payload, view);
    } else {
        fill_rows(payload, view);
    }
    return Status::OK;
}

size_t coding_scratch_bytes(uint8_t family, uint64_t max_units, uint32_t unit_bytes) {
    if (family == CODING_SPATIAL) return encode_spatial_scratch_bytes(max_units, unit_bytes);
    if (family == CODING_RANS32) return encode_rans32_scratch_bytes(max_units);
    return Rans16Scratch::size(max_units);
}

}  // namespace

size_t encode_scratch_bytes(uint8_t family, uint64_t max_units, uint32_t unit_bytes) {
    return EncodeScratch::size(family, max_units, unit_bytes) +
           align_up(coding_scratch_bytes(family, max_units, unit_bytes), 64);
}

size_t decode_scratch_bytes(uint8_t family, uint64_t max_units, uint32_t unit_bytes) {
    const uint64_t units = align_up(max_units * unit_bytes, 64);
    if (family == CODING_SPATIAL) return units + decode_spatial_scratch_bytes(max_units);
    if (family == CODING_RANS32) return units + decode_rans32_scratch_bytes(max_units);
    return units;
}

Status encode_block(const BlockView& view, const EncodeOptions& options, uint8_t* scratch,
                    EncodedBlock& block, const Ahead& ahead) {
    const uint64_t n = view.n_units();
    const uint32_t w = view.unit_bytes;
    const EncodeScratch parts(scratch, options.family, n, w);
    // Copied, because what is coded is looked at more than once and must stay the same, and the
    // matrix may be memory of the caller's that another thread writes to.
    gather_rows(view, parts.words);
    const uint8_t* const words = parts.words;

    block = {{0, CODING_RAW, FORM_NONE, 0, 0, n * w}, parts.block};
    uint8_t* const payload = parts.block + BLOCK_HEADER_BYTES;
    if (std::memcmp(words, words + w, (n - 1) * w) == 0) {
        block.header = {0, CODING_CONSTANT, FORM_NONE, 0, 0, w};
    } else if (options.family == CODING_RANS16) {
        encode_rans16(words, n, w, options, parts, block, ahead);
    } else if (options.family == CODING_SPATIAL) {
        const uint64_t size =
            encode_spatial(words, view.rows, view.cols, w, options.spatial, parts.coding, payload);
        if (size != 0) block.header = {0, CODING_SPATIAL, options.spatial.form, 0, 0, size};
    } else if (options.family == CODING_RANS32) {
        Rans32Form form;
        const uint64_t size = encode_rans32(words, view.rows, view.cols, w, options.rans32,
                                            parts.coding, payload, form);
        if (size != 0) block.header = {0, CODING_RANS32, form, 0, 0, size};
    }
    if (block.header.coding == CODING_RAW || block.header.coding == CODING_CONSTANT)
        std::memcpy(payload, words, block.header.payload_bytes);
    seal(block.begin, block.header);
    if (!options.verify) return Status::OK;

    const BlockView again{parts.decoded, view.row_bytes(), view.rows, view.cols, w, nullptr};
    const Status status = decode_payload(block.begin + BLOCK_HEADER_BYTES, block.header,
                                         options.family, again, parts.decoding, {});
    if (status != Status::OK) return status;
    return rows_equal(parts.decoded, view) ? Status::OK : Status::VERIFY_FAILED;
}

Status decode_block(const uint8_t* from, const BlockHeader& header, uint8_t family,
                    const BlockView& view, uint8_t* scratch, const DecodeHints& hints) {
    const Status status = check_frame(from, header);
    if (status != Status::OK) return status;
    return decode_payload(from + BLOCK_HEADER_BYTES, header, family, view, scratch, hints);
}

Status describe_block(const uint8_t* from, const BlockHeader& header, uint8_t family,
                      const DevicePlace& place, DeviceRecords& records) {
    StreamDescriptor* const streams = records.streams;
    Rans32Descriptor* const rans32 = records.rans32;
    SpatialDescriptor* const spatial = records.spatial;
    CopyDescriptor* const copy = records.copies;
    records.streams += n_streams_of(header);
    records.rans32 += header.coding == CODING_RANS32;
    records.spatial += header.coding == CODING_SPATIAL;
    records.copies += is_copied(header);
    Status status = check_frame(from, header);
    if (status != Status::OK) return status;
    const uint8_t* payload = from + BLOCK_HEADER_BYTES;
    const uint64_t n = uint64_t(place.rows) * place.cols;
    const uint32_t w = place.unit_bytes;
    if (header.coding == CODING_RANS32 && family == CODING_RANS32) {
        if (header.form >= N_RANS32_FORMS) return Status::BAD_FORM;
        if (header.n_streams != 0) return Status::BAD_N_STREAMS;
        *rans32 = {};
        rans32->payload = place.payload;
        rans32->output = place.output;
        rans32->row_stride = place.row_stride;
        uint64_t parameter_bytes = 0;
        status = describe_rans32(payload, header.payload_bytes,
                                 static_cast<Rans32Form>(header.form), place.rows, place.cols, w,
                                 *rans32, records.parameters, parameter_bytes);
        records.parameters += parameter_bytes;
        return status;
    }
    if (header.coding == CODING_SPATIAL && family == CODING_SPATIAL) {
        if (header.form >= N_SPATIAL_FORMS || w > 4) return Status::BAD_FORM;
        if (header.n_streams != 0) return Status::BAD_N_STREAMS;
        *spatial = {};
        spatial->payload = place.payload;
        spatial->output = place.output;
        spatial->row_stride = place.row_stride;
        uint64_t parameter_bytes = 0;
        status =
            describe_spatial(payload, header.payload_bytes, static_cast<SpatialForm>(header.form),
                             place.rows, place.cols, *spatial, records.parameters, parameter_bytes);
        records.parameters += parameter_bytes;
        return status;
    }
    if (header.coding != CODING_RANS16 || family != CODING_RANS16) {
        status = check_plain(header, n, w);
        if (status != Status::OK) return status;
        *copy = {place.payload,    place.output,
                 place.row_stride, 0,
                 place.cols * w,   place.cols * w,
                 place.rows,       header.coding == CODING_CONSTANT ? w : 0};
        return Status::OK;
    }
    Rans16Payload parsed;
    status = open_rans16(payload, header, n, w, parsed);
    if (status != Status::OK) return status;
    const auto offset = [payload](const uint8_t* part) {
        return static_cast<uint32_t>(part - payload);
    };
    const uint32_t step_bytes = step_raw_bytes(FIELD_MAPS[header.form]);
    for (uint32_t s = 0; s < header.n_streams; ++s) {
        const DecodeStream& stream = parsed.streams[s];
        const uint64_t first_raw = stream.first_step * step_bytes;
        streams[s] = {place.payload,
                      place.output,
                      place.row_stride,
                      place.cols,
                      RANS16_HEAD_BYTES + STREAM_SIZES_BYTES * header.n_streams,
                      offset(stream.states),
                      offset(stream.bytes_end) - offset(stream.bytes),
                      offset(stream.escapes),
                      static_cast<uint32_t>(stream.n_escapes),
                      offset(parsed.raw + first_raw),
                      static_cast<uint32_t>(stream.first_step),
                      static_cast<uint32_t>(stream.n_steps),
                      static_cast<uint16_t>(s + 1 == header.n_streams ? n % LANES : 0),
                      payload[0],
                      payload[1]};
    }
    return Status::OK;
}

}  // namespace wcodec
