// SPDX-License-Identifier: Apache-2.0
//
// The entropy coder of rans32 and of the spatial coding: rANS with 32 lanes, 32-bit states, 16-bit
// words and 12-bit probabilities, each symbol by a table of its own choice (docs/format.md section
// 15, streams).
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.hpp"
#include "stream_format.hpp"

namespace wcodec {

constexpr uint32_t MAX_TOKEN_TABLES = 16;  // of a stream
constexpr uint32_t MAX_TOKEN_TABLE_BYTES = 1 + 3 * 256;

// Frequencies of byte symbols, which sum to TOKEN_SCALE; 0: not in the table.
struct TokenTable {
    uint16_t frequency[256];
};

// Where each slot leads: symbol | slot - cumulative << 8 | frequency - 1 << 20.
struct TokenSlots {
    uint32_t entry[TOKEN_SCALE];
};

// What encoding a symbol takes.
struct TokenEncoding {
    uint32_t reciprocal;  // 2^32 / frequency, rounded down
    uint16_t frequency;
    uint16_t cumulative;
};
struct TokenEncodings {
    TokenEncoding symbol[256];
};

// From the counts of the symbols below n_symbols, which are not all 0.
void build_token_table(const uint32_t* counts, uint32_t n_symbols, TokenTable& table);

// Make frequencies that sum to `used` sum to TOKEN_SCALE, by ones from or to the largest, the first
// of them: what rounding left over or took too much is least felt there.
void balance_token_table(TokenTable& table, uint32_t used);

// Size of the table of these counts.
uint32_t token_table_bytes(const uint32_t* counts, uint32_t n_symbols);

// Write a table; returns its size, at most MAX_TOKEN_TABLE_BYTES.
uint32_t write_token_table(const TokenTable& table, uint8_t* to);

// Read and validate a table of symbols up to max_symbol; moves `from` behind it.
Status read_token_table(const uint8_t*& from, const uint8_t* end, uint32_t max_symbol,
                        TokenTable& table);

// The frequencies sum to TOKEN_SCALE.
void build_token_slots(const TokenTable& table, TokenSlots& slots);

// Encode n symbols, symbol i in lane i % 32 with tables[ids[i]] (tables[0] if ids is null). The
// words are written backwards from `end`, and the states before them; at most 2 n bytes and
// TOKEN_STATES_BYTES. Returns the size of both.
size_t encode_tokens(const uint8_t* symbols, const uint8_t* ids, size_t n, const TokenTable* tables,
                     uint8_t* end);

// Whether [from, end) has the size of a stream, and states that a stream can begin with.
Status check_token_stream(const uint8_t* from, const uint8_t* end);

// Decode n symbols of [from, end), states first. READ_SLACK_BYTES behind `end` are readable. Status
// says whether exactly these bytes were used and all states ended where the encoder began.
Status decode_tokens(const uint8_t* from, const uint8_t* end, const uint8_t* ids, size_t n,
                     const TokenSlots* tables, uint8_t* symbols);

}  // namespace wcodec
