// SPDX-License-Identifier: Apache-2.0
#include "spatial_block.hpp"

#include <algorithm>
#include <cstring>

#include "bit_string.hpp"
#include "bytes.hpp"
#include "token_coder.hpp"

namespace wcodec {
namespace {

constexpr uint32_t SPATIAL_HEAD_BYTES = 16;

// How the bytes of the tiles are stored.
enum TilesCoding : uint8_t { TILES_ALIKE = 0, TILES_BYTES = 1, TILES_CODED = 2 };

constexpr uint32_t MAX_TILE_UNITS = 1u << (2 * MAX_TILE_LOG2);

void write_raw_bits(const uint8_t* image, uint32_t rows, uint32_t cols, uint32_t w,
                    uint32_t tile_log2, const uint8_t* tiles, uint8_t* to) {
    const uint32_t n_tiles = tiles_along(rows, tile_log2) * tiles_along(cols, tile_log2);
    int32_t residuals[MAX_TILE_UNITS];
    BitWriter writer(to);
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const Tile tile = tile_at(t, rows, cols, tile_log2);
        predict_tile(tile_predictor(tiles[t]), w, image, cols, tile, residuals);
        transform_tile(tile_transform(tiles[t]), residuals, tile);
        for (uint32_t i = 0; i < tile.rows * tile.cols; ++i) {
            const uint32_t number = zigzag(residuals[i]);
            const uint32_t token = token_of(number);
            writer.put(number - token_base(token), token_raw_bits(token));
        }
    }
    writer.finish();
}

void restore_image(const uint8_t* tokens, const uint8_t* raw, uint32_t rows, uint32_t cols,
                   uint32_t w, uint32_t tile_log2, const uint8_t* tiles, uint8_t* image) {
    const uint32_t n_tiles = tiles_along(rows, tile_log2) * tiles_along(cols, tile_log2);
    int32_t residuals[MAX_TILE_UNITS];
    BitReader reader(raw);
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const Tile tile = tile_at(t, rows, cols, tile_log2);
        const uint32_t n = tile.rows * tile.cols;
        for (uint32_t i = 0; i < n; ++i) {
            const uint32_t token = tokens[i];
            residuals[i] = unzigzag(token_base(token) +
                                    static_cast<uint32_t>(reader.take(token_raw_bits(token))));
        }
        tokens += n;
        inverse_transform_tile(tile_transform(tiles[t]), residuals, tile);
        restore_tile(tile_predictor(tiles[t]), w, residuals, image, cols, tile);
    }
}

// Parts of the scratch memory.
struct EncodeParts {
    uint8_t* image;
    uint8_t* tokens;
    uint8_t* ids;
    uint8_t* tiles;
    uint8_t* stream_end;  // a stream is written backwards from here
    uint8_t* choice;

    EncodeParts(uint8_t* memory, uint64_t n, uint32_t w) {
        image = memory;
        tokens = image + align_up(n * w, 64);
        ids = tokens + align_up(n, 64);
        tiles = ids + align_up(n, 64);
        uint8_t* stream = tiles + align_up(n, 64);
        stream_end = stream + align_up(2 * n + TOKEN_STATES_BYTES, 64);
        choice = stream_end;
    }
};

// The table of each unit is that of its tile.
void spread_ids(uint32_t rows, uint32_t cols, uint32_t tile_log2, const uint8_t* tiles,
                uint8_t* ids) {
    const uint32_t n_tiles = tiles_along(rows, tile_log2) * tiles_along(cols, tile_log2);
    for (uint32_t t = 0; t < n_tiles; ++t) {
        const Tile tile = tile_at(t, rows, cols, tile_log2);
        const uint32_t n = tile.rows * tile.cols;
        std::memset(ids, static_cast<int>(tile_table(tiles[t])), n);
        ids += n;
    }
}

bool tile_is_legal(uint8_t tile, uint32_t tile_log2, uint32_t n_tables) {
    if (tile_predictor(tile) >= N_PREDICTORS || tile_table(tile) >= n_tables) return false;
    return (1u << tile_log2) >= TRANSFORM_SIZE || tile_transform(tile) == TRANSFORM_NONE;
}

// What a payload holds, as far as it was checked.
struct SpatialPayload {
    uint32_t tile_log2;
    uint32_t n_tables;
    uint32_t n_tiles;
    TokenTable tables[MAX_TILE_TABLES];
    const uint8_t* stream;
    const uint8_t* stream_end;
    const uint8_t* raw;
    uint64_t raw_bytes;
};

// Check all of a payload but its tokens and raw bits. `tiles` gets a byte for each tile and has
// room for as many as there can be; `slots` is memory to work in.
Status parse_spatial(const uint8_t* payload, uint64_t payload_bytes, uint32_t rows, uint32_t cols,
                     SpatialPayload& parsed, TokenSlots& slots, uint8_t* tiles) {
    if (payload_bytes < SPATIAL_HEAD_BYTES) return Status::BAD_PAYLOAD_BYTES;
    const uint32_t tile_log2 = payload[0];
    const uint32_t n_tables = payload[1];
    const uint32_t coding = payload[2];
    if (payload[3] != 0) return Status::RESERVED_NOT_ZERO;
    if (tile_log2 < MIN_TILE_LOG2 || tile_log2 > MAX_TILE_LOG2 || n_tables < 1 ||
        n_tables > MAX_TILE_TABLES || coding > TILES_CODED)
        return Status::BAD_TILES;
    const uint64_t tiles_bytes = read_as<uint32_t>(payload + 4);
    const uint64_t stream_bytes = read_as<uint32_t>(payload + 8);
    const uint64_t raw_bytes = read_as<uint32_t>(payload + 12);
    const uint32_t n_tiles = tiles_along(rows, tile_log2) * tiles_along(cols, tile_log2);
    if ((coding == TILES_ALIKE && tiles_bytes != 1) ||
        (coding == TILES_BYTES && tiles_bytes != n_tiles))
        return Status::BAD_TILES;

    // Tables first: how long they are decides where the rest is.
    const uint8_t* at = payload + SPATIAL_HEAD_BYTES;
    const uint8_t* end = payload + payload_bytes;
    for (uint32_t k = 0; k < n_tables; ++k) {
        const Status status = read_token_table(at, end, N_TOKENS - 1, parsed.tables[k]);
        if (status != Status::OK) return status;
    }
    if (coding == TILES_CODED) {
        TokenTable table;
        const Status status = read_token_table(at, end, 255, table);
        if (status != Status::OK) return status;
        build_token_slots(table, slots);
    }
    const auto aligned = [&](uint64_t size) { return align_up(size, BLOCK_ALIGNMENT); };
    const uint64_t tables_end = static_cast<uint64_t>(at - payload);
    const uint64_t tiles_at = aligned(tables_end);
    const uint64_t stream_at = aligned(tiles_at + tiles_bytes);
    const uint64_t raw_at = aligned(stream_at + stream_bytes);
    if (raw_at + raw_bytes != payload_bytes) return Status::BAD_PAYLOAD_BYTES;
    if (!all_zero(at, payload + tiles_at) ||
        !all_zero(payload + tiles_at + tiles_bytes, payload + stream_at) ||
        !all_zero(payload + stream_at + stream_bytes, payload + raw_at))
        return Status::PADDING_NOT_ZERO;

    if (coding == TILES_ALIKE) std::memset(tiles, payload[tiles_at], n_tiles);
    if (coding == TILES_BYTES) std::memcpy(tiles, payload + tiles_at, n_tiles);
    if (coding == TILES_CODED) {
        const uint8_t* from = payload + tiles_at;
        const Status status =
            decode_tokens(from, from + tiles_bytes, nullptr, n_tiles, &slots, tiles);
        if (status != Status::OK) return status;
    }
    for (uint32_t t = 0; t < n_tiles; ++t)
        if (!tile_is_legal(tiles[t], tile_log2, n_tables)) return Status::BAD_TILES;
    parsed.tile_log2 = tile_log2;
    parsed.n_tables = n_tables;
    parsed.n_tiles = n_tiles;
    parsed.stream = payload + stream_at;
    parsed.stream_end = parsed.stream + stream_bytes;
    parsed.raw = payload + raw_at;
    parsed.raw_bytes = raw_bytes;
    return Status::OK;
}

uint8_t* pad(uint8_t* payload, uint8_t* at) {
    uint8_t* padded = payload + align_up(static_cast<uint64_t>(at - payload), BLOCK_ALIGNMENT);
    std::memset(at, 0, static_cast<size_t>(padded - at));
    return padded;
}

}  // namespace

size_t encode_spatial_scratch_bytes(uint64_t max_units, uint32_t unit_bytes) {
    const uint64_t n = align_up(max_units, 64);
    // A tile has at least a unit; of 1 x n units a tile of 4 has four.
    return align_up(max_units * unit_bytes, 64) + 3 * n + align_up(2 * n + TOKEN_STATES_BYTES, 64) +
           tile_choice_scratch_bytes(max_units, static_cast<uint32_t>(max_units / 4 + 1));
}

size_t decode_spatial_scratch_bytes(uint64_t max_units) {
    return 3 * align_up(max_units, 64) + MAX_TILE_TABLES * sizeof(TokenSlots);
}

uint64_t encode_spatial(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                        const SpatialOptions& options, uint8_t* scratch, uint8_t* payload) {
    const uint64_t n = uint64_t{rows} * cols;
    const uint32_t n_tiles =
        tiles_along(rows, options.tile_log2) * tiles_along(cols, options.tile_log2);
    const EncodeParts parts(scratch, n, w);
    std::memcpy(parts.image, units, n * w);
    map_units(options.form, w, parts.image, n);
    TileChoice choice;
    choice.tiles = parts.tiles;
    choice.tokens = parts.tokens;
    choose_tiles(parts.image, rows, cols, w, options, parts.choice, choice);

    // The payload must stay below this, and what reads its raw bits may go 7 bytes beyond them.
    const uint64_t room = n * w < 8 ? 0 : n * w - 8;
    uint64_t least = SPATIAL_HEAD_BYTES + (choice.raw_bits + 7) / 8;
    for (uint32_t k = 0; k < choice.n_tables; ++k)
        least += token_table_bytes(choice.counts[k], N_TOKENS);
    uint32_t counts[256] = {};
    for (uint32_t t = 0; t < n_tiles; ++t) ++counts[parts.tiles[t]];
    least += token_table_bytes(counts, 256);
    if (least + BLOCK_ALIGNMENT >= room) return 0;  // what follows fits up to the streams

    uint8_t* at = payload + SPATIAL_HEAD_BYTES;
    TokenTable tables[MAX_TILE_TABLES];
    for (uint32_t k = 0; k < choice.n_tables; ++k) {
        build_token_table(choice.counts[k], N_TOKENS, tables[k]);
        at += write_token_table(tables[k], at);
    }
    uint32_t tiles_bytes = n_tiles;
    TokenTable tile_table;
    build_token_table(counts, 256, tile_table);
    uint8_t tile_table_bytes[MAX_TOKEN_TABLE_BYTES];
    const uint32_t table_bytes = write_token_table(tile_table, tile_table_bytes);
    const size_t coded =
        encode_tokens(parts.tiles, nullptr, n_tiles, &tile_table, parts.stream_end);
    TilesCoding coding = TILES_BYTES;
    if (counts[parts.tiles[0]] == n_tiles) {
        coding = TILES_ALIKE;
        tiles_bytes = 1;
    } else if (table_bytes + coded < n_tiles) {
        coding = TILES_CODED;
        tiles_bytes = static_cast<uint32_t>(coded);
        std::memcpy(at, tile_table_bytes, table_bytes);
        at += table_bytes;
    }
    at = pad(payload, at);
    if (static_cast<uint64_t>(at - payload) + tiles_bytes >= room) return 0;
    const uint8_t* tiles_from =
        coding == TILES_CODED ? parts.stream_end - tiles_bytes : parts.tiles;
    std::memcpy(at, tiles_from, tiles_bytes);
    at = pad(payload, at + tiles_bytes);

    spread_ids(rows, cols, options.tile_log2, parts.tiles, parts.ids);
    const size_t stream_bytes = encode_tokens(parts.tokens, parts.ids, n, tables, parts.stream_end);
    const uint64_t raw_bytes = (choice.raw_bits + 7) / 8;
    const uint64_t before = static_cast<uint64_t>(at - payload);
    if (before + align_up(stream_bytes, BLOCK_ALIGNMENT) + raw_bytes >= room) return 0;
    std::memcpy(at, parts.stream_end - stream_bytes, stream_bytes);
    at = pad(payload, at + stream_bytes);
    write_raw_bits(parts.image, rows, cols, w, options.tile_log2, parts.tiles, at);

    payload[0] = static_cast<uint8_t>(options.tile_log2);
    payload[1] = static_cast<uint8_t>(choice.n_tables);
    payload[2] = coding;
    payload[3] = 0;
    write_as(payload + 4, tiles_bytes);
    write_as(payload + 8, static_cast<uint32_t>(stream_bytes));
    write_as(payload + 12, static_cast<uint32_t>(raw_bytes));
    return static_cast<uint64_t>(at - payload) + raw_bytes;
}

Status decode_spatial(const uint8_t* payload, uint64_t payload_bytes, SpatialForm form,
                      uint32_t rows, uint32_t cols, uint32_t w, uint8_t* scratch, uint8_t* units) {
    const uint64_t n = uint64_t{rows} * cols;
    uint8_t* tokens = scratch;
    uint8_t* ids = tokens + align_up(n, 64);
    uint8_t* tiles = ids + align_up(n, 64);
    auto* slots = reinterpret_cast<TokenSlots*>(tiles + align_up(n, 64));
    SpatialPayload parsed;
    Status status = parse_spatial(payload, payload_bytes, rows, cols, parsed, slots[0], tiles);
    if (status != Status::OK) return status;
    for (uint32_t k = 0; k < parsed.n_tables; ++k) build_token_slots(parsed.tables[k], slots[k]);
    spread_ids(rows, cols, parsed.tile_log2, tiles, ids);
    status = decode_tokens(parsed.stream, parsed.stream_end, ids, n, slots, tokens);
    if (status != Status::OK) return status;
    uint64_t raw_bits = 0;
    for (uint64_t i = 0; i < n; ++i) raw_bits += token_raw_bits(tokens[i]);
    if ((raw_bits + 7) / 8 != parsed.raw_bytes) return Status::BAD_RAW_BITS;
    if (raw_bits % 8 != 0 && payload[payload_bytes - 1] >> raw_bits % 8 != 0)
        return Status::PADDING_NOT_ZERO;
    restore_image(tokens, parsed.raw, rows, cols, w, parsed.tile_log2, tiles, units);
    map_units(form, w, units, n);
    return Status::OK;
}

Status describe_spatial(const uint8_t* payload, uint64_t payload_bytes, SpatialForm form,
                        uint32_t rows, uint32_t cols, SpatialDescriptor& block, uint8_t* parameters,
                        uint64_t& parameter_bytes) {
    // The tiles are behind all that comes before them, so they can be moved up to it.
    uint8_t* const tiles = parameters + SPATIAL_PARAMETERS_BYTES - BLOCK_ALIGNMENT;
    SpatialPayload parsed;
    TokenSlots slots;
    Status status = parse_spatial(payload, payload_bytes, rows, cols, parsed, slots, tiles);
    if (status == Status::OK) status = check_token_stream(parsed.stream, parsed.stream_end);
    if (status != Status::OK) return status;

    uint8_t* to = parameters;
    const auto put = [&to](uint32_t number) {
        write_as(to, static_cast<uint16_t>(number));
        to += sizeof(uint16_t);
    };
    for (uint32_t k = 0; k < parsed.n_tables; ++k) {
        uint32_t sum = 0;
        put(sum);
        for (uint32_t s = 0; s < N_TOKENS; ++s) put(sum += parsed.tables[k].frequency[s]);
    }
    std::memmove(to, tiles, parsed.n_tiles);
    to += parsed.n_tiles;
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
    block.raw_offset = offset(parsed.raw);
    block.raw_bytes = static_cast<uint32_t>(parsed.raw_bytes);
    block.tile_log2 = static_cast<uint8_t>(parsed.tile_log2);
    block.n_tables = static_cast<uint8_t>(parsed.n_tables);
    block.form = form;
    return Status::OK;
}

}  // namespace wcodec
