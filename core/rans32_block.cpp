// SPDX-License-Identifier: Apache-2.0
#include "rans32_block.hpp"

#include <algorithm>
#include <cstring>

#include "bytes.hpp"
#include "spatial.hpp"
#include "token_coder.hpp"

namespace wcodec {
namespace {

constexpr uint32_t HEAD_BYTES = 20;
enum Classes : uint8_t { ROW_CLASSES = 1, COL_CLASSES = 2 };

// What a payload says.
struct Rans32Payload {
    UnitSplit split;
    Alphabet alphabet;
    uint32_t n_tables;
    uint32_t classes;
    TokenTable tables[MAX_RANS32_TABLES];
    const uint8_t* stream;
    const uint8_t* stream_end;
    const uint8_t* escapes;
    uint64_t n_escapes;
    const uint8_t* raw;
};

// Parts of the encoder's scratch memory.
struct EncodeParts {
    uint8_t* symbols;
    uint8_t* ids;
    uint8_t* row_class;
    uint8_t* col_class;
    uint8_t* parameters;
    uint8_t* stream_end;  // a stream is written backwards from here
    uint8_t* escapes;
    uint8_t* choice;

    EncodeParts(uint8_t* memory, uint64_t n, uint32_t rows, uint32_t cols) {
        symbols = memory;
        ids = symbols + align_up(n, 64);
        row_class = ids + align_up(n, 64);
        col_class = row_class + align_up(rows, 64);
        parameters = col_class + align_up(cols, 64);
        stream_end = parameters + parameters_room(uint64_t{rows} + cols) +
                     align_up(2 * n + TOKEN_STATES_BYTES, 64);
        escapes = stream_end;
        choice = escapes + align_up(2 * n, 64);
    }
    static uint64_t parameters_room(uint64_t n_classes) {
        const uint64_t bits = MAX_RANS32_TABLES * MAX_LEVEL_TABLE_BITS + 2 * CLASS_HEAD_BITS +
                              n_classes * MAX_SMALL_BITS;
        return align_up(bits / 8 + 16, 64);
    }
    static uint64_t size(uint64_t n) {  // rows + cols <= n + 1
        return 2 * align_up(n, 64) + align_up(n + 1, 64) + 64 + parameters_room(n + 1) +
               align_up(2 * n + TOKEN_STATES_BYTES, 64) + align_up(2 * n, 64);
    }
};

void write_classes(const uint8_t* classes, uint32_t n, BitWriter& writer) {
    uint32_t counts[MAX_RANS32_CLASS + 1] = {};
    for (uint32_t i = 0; i < n; ++i) ++counts[classes[i]];
    const ClassCoding coding = best_class_coding(counts);
    writer.put(coding.base, 4);
    writer.put(coding.parameter, 3);
    for (uint32_t i = 0; i < n; ++i)
        put_small_number(writer, zigzag(classes[i] - static_cast<int32_t>(coding.base)),
                         coding.parameter);
}

// The bits taken stay below `end`, or it is false; what lies up to READ_SLACK_BYTES behind may be
// looked at.
bool read_classes(BitReader& reader, uint64_t end, uint32_t n, uint8_t* classes) {
    const auto base = static_cast<int32_t>(reader.take(4));
    const auto parameter = static_cast<uint32_t>(reader.take(3));
    for (uint32_t i = 0; i < n; ++i) {
        if (reader.bits_taken() > end) return false;
        const int32_t found = base + unzigzag(take_small_number(reader, parameter));
        if (found < 0 || found > static_cast<int32_t>(MAX_RANS32_CLASS)) return false;
        classes[i] = static_cast<uint8_t>(found);
    }
    return reader.bits_taken() <= end;
}

// The table of each unit, by the classes of its row and its column.
void find_ids(const uint8_t* row_class, const uint8_t* col_class, uint32_t rows, uint32_t cols,
              uint32_t n_tables, uint8_t* ids) {
    const auto last = static_cast<uint8_t>(n_tables - 1);
    for (uint32_t r = 0; r < rows; ++r, ids += cols)
        for (uint32_t c = 0; c < cols; ++c)
            ids[c] = std::min(static_cast<uint8_t>(row_class[r] + col_class[c]), last);
}

// The codes of the escapes, in order; returns their number.
uint64_t write_escapes(const UnitSplit& split, const Alphabet& alphabet, const uint8_t* units,
                       const uint8_t* symbols, uint64_t n, uint8_t* to) {
    if (!alphabet.escape) return 0;
    const uint32_t w = split.unit_bytes;
    const auto escape = static_cast<int>(alphabet.n_symbols - 1);
    const uint8_t* const end = symbols + n;
    uint64_t n_escapes = 0;
    for (const uint8_t* at = symbols;; ++at) {
        at = static_cast<const uint8_t*>(std::memchr(at, escape, static_cast<size_t>(end - at)));
        if (!at) return n_escapes;
        const uint8_t* unit = units + static_cast<size_t>(at - symbols) * w;
        if (w == 1)
            to[n_escapes] = static_cast<uint8_t>(split.code_of(*unit));
        else
            write_as(to + 2 * n_escapes,
                     static_cast<uint16_t>(split.code_of(read_as<uint16_t>(unit + w - 2))));
        ++n_escapes;
    }
}

// A table of symbols as one of the units that they stand for. The slots are the same: both ascend.
TokenTable by_unit(const TokenTable& table, const Alphabet& alphabet, const UnitSplit& split) {
    TokenTable result{};
    for (uint32_t s = 0; s < alphabet.n_symbols; ++s)
        result.frequency[alphabet.code[s] << split.code_shift()] = table.frequency[s];
    return result;
}

uint8_t* pad(uint8_t* payload, uint8_t* at) {
    uint8_t* padded = payload + align_up(static_cast<uint64_t>(at - payload), BLOCK_ALIGNMENT);
    std::memset(at, 0, static_cast<size_t>(padded - at));
    return padded;
}

// Find and check all of a payload but the bytes of its stream, its escapes and its raw bits;
// everything in it is untrusted. Classes that are not stored are 0.
Status parse_rans32(const uint8_t* payload, uint64_t payload_bytes, Rans32Form form, uint32_t rows,
                    uint32_t cols, uint32_t w, Rans32Payload& parsed, uint8_t* row_class,
                    uint8_t* col_class) {
    if (payload_bytes < HEAD_BYTES) return Status::BAD_PAYLOAD_BYTES;
    const UnitSplit split{static_cast<uint8_t>(w), form, payload[0], payload[1]};
    const uint32_t n_tables = payload[2];
    const uint32_t classes = payload[3];
    const uint32_t n_runs = payload[4];
    if (!split.legal() || payload[5] > 1) return Status::BAD_CODE;
    if (n_tables < 1 || n_tables > MAX_RANS32_TABLES || classes > (ROW_CLASSES | COL_CLASSES))
        return Status::BAD_CLASSES;
    if (read_as<uint16_t>(payload + 6) != 0) return Status::RESERVED_NOT_ZERO;
    const uint64_t parameter_bytes = read_as<uint32_t>(payload + 8);
    const uint64_t stream_bytes = read_as<uint32_t>(payload + 12);
    const uint64_t n_escapes = read_as<uint32_t>(payload + 16);
    const uint64_t escapes_size = n_escapes * escape_bytes(w);
    const uint64_t raw_bits = uint64_t{rows} * cols * split.raw_bits();

    const auto aligned = [](uint64_t size) { return align_up(size, BLOCK_ALIGNMENT); };
    const uint64_t parameters_at = HEAD_BYTES + uint64_t{RUN_BYTES} * n_runs;
    const uint64_t stream_at = aligned(parameters_at + parameter_bytes);
    const uint64_t escapes_at = aligned(stream_at + stream_bytes);
    const uint64_t raw_at = aligned(escapes_at + escapes_size);
    if (raw_at + (raw_bits + 7) / 8 != payload_bytes) return Status::BAD_PAYLOAD_BYTES;
    if (!all_zero(payload + parameters_at + parameter_bytes, payload + stream_at) ||
        !all_zero(payload + stream_at + stream_bytes, payload + escapes_at) ||
        !all_zero(payload + escapes_at + escapes_size, payload + raw_at) ||
        (raw_bits % 8 != 0 && payload[payload_bytes - 1] >> raw_bits % 8 != 0))
        return Status::PADDING_NOT_ZERO;

    if (!read_runs(payload + HEAD_BYTES, n_runs, payload[5] != 0, split.code_bits(),
                   parsed.alphabet))
        return Status::BAD_CODE;
    const uint64_t parameters_end = 8 * parameter_bytes;
    BitReader reader(payload + parameters_at);
    for (uint32_t k = 0; k < n_tables; ++k) {
        LevelTable table{};
        if (!read_level_table(reader, parameters_end, parsed.alphabet.n_symbols, table))
            return Status::BAD_FREQUENCY_TABLE;
        parsed.tables[k] = table.frequencies;
    }
    std::memset(row_class, 0, rows);
    std::memset(col_class, 0, cols);
    if ((classes & ROW_CLASSES) && !read_classes(reader, parameters_end, rows, row_class))
        return Status::BAD_CLASSES;
    if ((classes & COL_CLASSES) && !read_classes(reader, parameters_end, cols, col_class))
        return Status::BAD_CLASSES;
    if ((reader.bits_taken() + 7) / 8 != parameter_bytes) return Status::BAD_PAYLOAD_BYTES;
    if (reader.bits_taken() % 8 != 0 &&
        payload[parameters_at + parameter_bytes - 1] >> reader.bits_taken() % 8 != 0)
        return Status::PADDING_NOT_ZERO;

    parsed.split = split;
    parsed.n_tables = n_tables;
    parsed.classes = classes;
    parsed.stream = payload + stream_at;
    parsed.stream_end = parsed.stream + stream_bytes;
    parsed.escapes = payload + escapes_at;
    parsed.n_escapes = n_escapes;
    parsed.raw = payload + raw_at;
    return Status::OK;
}

}  // namespace

size_t encode_rans32_scratch_bytes(uint64_t max_units) {
    return EncodeParts::size(max_units) + rans32_choice_scratch_bytes(max_units);
}

size_t decode_rans32_scratch_bytes(uint64_t max_units) {
    return 2 * align_up(max_units, 64) + align_up(max_units + 1, 64) + 64 +
           MAX_RANS32_TABLES * sizeof(TokenSlots);
}

uint64_t encode_rans32(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                       const Rans32Options& options, uint8_t* scratch, uint8_t* payload,
                       Rans32Form& form) {
    const uint64_t n = uint64_t{rows} * cols;
    const EncodeParts parts(scratch, n, rows, cols);
    Rans32Choice choice;
    choose_rans32(units, rows, cols, w, options, parts.choice, choice, parts.row_class,
                  parts.col_class, parts.symbols);
    if (choice.cost >= n * w * 8 * LEVEL_COST_UNIT) return 0;

    BitWriter writer(parts.parameters);
    TokenTable tables[MAX_RANS32_TABLES];
    for (uint32_t k = 0; k < choice.n_tables; ++k) {
        write_level_table(choice.tables[k], choice.alphabet.n_symbols, writer);
        tables[k] = choice.tables[k].frequencies;
    }
    if (choice.row_classes) write_classes(parts.row_class, rows, writer);
    if (choice.col_classes) write_classes(parts.col_class, cols, writer);
    const auto parameter_bytes = static_cast<uint64_t>(writer.finish() - parts.parameters);

    const uint8_t* ids = nullptr;
    if (choice.n_tables > 1) {
        find_ids(parts.row_class, parts.col_class, rows, cols, choice.n_tables, parts.ids);
        ids = parts.ids;
    }
    const size_t stream_bytes = encode_tokens(parts.symbols, ids, n, tables, parts.stream_end);
    const uint64_t n_escapes =
        write_escapes(choice.split, choice.alphabet, units, parts.symbols, n, parts.escapes);
    const uint32_t n_runs = count_runs(choice.alphabet);
    const uint64_t escapes_size = n_escapes * escape_bytes(w);
    const uint64_t total =
        align_up(HEAD_BYTES + RUN_BYTES * n_runs + parameter_bytes, BLOCK_ALIGNMENT) +
        align_up(stream_bytes, BLOCK_ALIGNMENT) + align_up(escapes_size, BLOCK_ALIGNMENT) +
        (n * choice.split.raw_bits() + 7) / 8;
    if (total >= n * w) return 0;

    payload[0] = choice.split.low_bits;
    payload[1] = choice.split.zero_bits;
    payload[2] = static_cast<uint8_t>(choice.n_tables);
    payload[3] = static_cast<uint8_t>(choice.row_classes | choice.col_classes << 1);
    payload[4] = static_cast<uint8_t>(n_runs);
    payload[5] = choice.alphabet.escape;
    write_as<uint16_t>(payload + 6, 0);
    write_as(payload + 8, static_cast<uint32_t>(parameter_bytes));
    write_as(payload + 12, static_cast<uint32_t>(stream_bytes));
    write_as(payload + 16, static_cast<uint32_t>(n_escapes));
    uint8_t* at = payload + HEAD_BYTES;
    write_runs(choice.alphabet, at);
    at += RUN_BYTES * n_runs;
    std::memcpy(at, parts.parameters, parameter_bytes);
    at = pad(payload, at + parameter_bytes);
    std::memcpy(at, parts.stream_end - stream_bytes, stream_bytes);
    at = pad(payload, at + stream_bytes);
    std::memcpy(at, parts.escapes, escapes_size);
    at = pad(payload, at + escapes_size);
    write_raw_bits(choice.split, units, n, at);
    form = static_cast<Rans32Form>(choice.split.sign_raw);
    return total;
}

Status decode_rans32(const uint8_t* payload, uint64_t payload_bytes, Rans32Form form, uint32_t rows,
                     uint32_t cols, uint32_t w, uint8_t* scratch, uint8_t* units) {
    const uint64_t n = uint64_t{rows} * cols;
    uint8_t* symbols = scratch;
    uint8_t* ids = symbols + align_up(n, 64);
    uint8_t* row_class = ids + align_up(n, 64);
    uint8_t* col_class = row_class + align_up(rows, 64);
    auto* slots = reinterpret_cast<TokenSlots*>(col_class + align_up(cols, 64));
    Rans32Payload parsed;
    Status status =
        parse_rans32(payload, payload_bytes, form, rows, cols, w, parsed, row_class, col_class);
    if (status != Status::OK) return status;

    // Bytes without raw bits are their codes: the tables lead to them at once.
    const UnitSplit& split = parsed.split;
    const bool direct = w == 1 && split.raw_bits() == 0 && !parsed.alphabet.escape;
    for (uint32_t k = 0; k < parsed.n_tables; ++k)
        build_token_slots(
            direct ? by_unit(parsed.tables[k], parsed.alphabet, split) : parsed.tables[k],
            slots[k]);
    const bool several = parsed.n_tables > 1;
    if (several) find_ids(row_class, col_class, rows, cols, parsed.n_tables, ids);
    status = decode_tokens(parsed.stream, parsed.stream_end, several ? ids : nullptr, n, slots,
                           direct ? units : symbols);
    if (status != Status::OK) return status;
    if (direct) return parsed.n_escapes == 0 ? Status::OK : Status::BAD_STREAM_SIZE;
    return join_units(split, parsed.alphabet, symbols, n, parsed.raw, parsed.escapes,
                      parsed.n_escapes, units);
}

Status describe_rans32(const uint8_t* payload, uint64_t payload_bytes, Rans32Form form,
                       uint32_t rows, uint32_t cols, uint32_t w, Rans32Descriptor& block,
                       uint8_t* parameters, uint64_t& parameter_bytes) {
    uint8_t* const row_class = parameters + RANS32_PARAMETERS_BYTES - BLOCK_ALIGNMENT;
    uint8_t* const col_class = row_class + rows;
    Rans32Payload parsed;
    Status status =
        parse_rans32(payload, payload_bytes, form, rows, cols, w, parsed, row_class, col_class);
    if (status == Status::OK) status = check_token_stream(parsed.stream, parsed.stream_end);
    if (status != Status::OK) return status;
    const UnitSplit& split = parsed.split;
    if (parsed.n_escapes > 0 && !parsed.alphabet.escape) return Status::BAD_STREAM_SIZE;
    for (uint64_t i = 0; i < parsed.n_escapes; ++i) {
        const uint32_t code =
            w == 1 ? parsed.escapes[i] : read_as<uint16_t>(parsed.escapes + 2 * i);
        if (code >> split.code_bits() != 0) return Status::BAD_CODE;
    }

    // The classes are behind all that comes before them, so they can be moved up to it.
    uint8_t* to = parameters;
    const auto put = [&to](uint32_t number) {
        write_as(to, static_cast<uint16_t>(number));
        to += sizeof(uint16_t);
    };
    const uint32_t n_symbols = parsed.alphabet.n_symbols;
    for (uint32_t s = 0; s < n_symbols; ++s) put(parsed.alphabet.code[s]);
    for (uint32_t k = 0; k < parsed.n_tables; ++k) {
        uint32_t sum = 0;
        put(sum);
        for (uint32_t s = 0; s < n_symbols; ++s) put(sum += parsed.tables[k].frequency[s]);
    }
    const auto move = [&to](const uint8_t* from, uint32_t n) {
        std::memmove(to, from, n);
        to += n;
    };
    if (parsed.classes & ROW_CLASSES) move(row_class, rows);
    if (parsed.classes & COL_CLASSES) move(col_class, cols);
    const auto size = static_cast<uint64_t>(to - parameters);
    parameter_bytes = align_up(size, BLOCK_ALIGNMENT);
    std::memset(to, 0, parameter_bytes - size);

    const auto offset = [payload](const uint8_t* part) {
        return static_cast<uint32_t>(part - payload);
    };
    block.n_rows = rows;
    block.row_units = cols;
    block.stream_offset = offset(parsed.stream);
    block.stream_bytes = offset(parsed.stream_end) - offset(parsed.stream);
    block.escapes_offset = offset(parsed.escapes);
    block.n_escapes = static_cast<uint32_t>(parsed.n_escapes);
    block.raw_offset = offset(parsed.raw);
    block.n_symbols = static_cast<uint16_t>(n_symbols);
    block.n_tables = static_cast<uint8_t>(parsed.n_tables);
    block.flags = static_cast<uint8_t>((parsed.alphabet.escape ? RANS32_ESCAPE : 0) |
                                       (split.sign_raw ? RANS32_SIGN : 0) |
                                       (parsed.classes & ROW_CLASSES ? RANS32_ROW_CLASSES : 0) |
                                       (parsed.classes & COL_CLASSES ? RANS32_COL_CLASSES : 0));
    block.code_bits = static_cast<uint8_t>(split.code_bits());
    block.code_shift = static_cast<uint8_t>(split.code_shift());
    block.raw_bits = static_cast<uint8_t>(split.raw_bits());
    block.zero_bits = split.zero_bits;
    return Status::OK;
}

}  // namespace wcodec
