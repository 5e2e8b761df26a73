// SPDX-License-Identifier: Apache-2.0
//
// The frequency table of a rans16 block: which values are symbols of their own, with which
// frequency. Built from counts by the encoder; read from a payload, and validated, by the decoder.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.hpp"
#include "stream_format.hpp"

namespace wcodec {

// All value masks lie in bits 15..6, so `value >> CODE_SHIFT` numbers the values of every field
// map.
constexpr uint32_t CODE_SHIFT = 6;
constexpr uint32_t N_CODES = 512;

struct FrequencyTable {
    uint32_t n_symbols;
    uint32_t escape;  // n_symbols - 1, or NO_ESCAPE
    uint8_t frequency[MAX_SYMBOLS];
    uint16_t value[MAX_SYMBOLS];
};

// What the decoder looks up: entry[slot] = frequency | (slot - cum) << 8 | value << 16 | escape <<
// 31. Bit 31 is free because no value has bit 15.
struct DecodeTable {
    uint32_t entry[SCALE];
};
constexpr uint32_t ENTRY_ESCAPE = 1u << 31;

// Choose symbols and frequencies for `counts` (by code; their sum is n_units > 0). Integer
// arithmetic only.
void build_frequency_table(const uint32_t* counts, uint64_t n_units, const FieldMap& map,
                           FrequencyTable& table);

// Bits that coding `counts` with `table` takes, in units of 2^-16 bit: symbols, escape lists and
// the table itself.
uint64_t coded_cost(const uint32_t* counts, const FieldMap& map, const FrequencyTable& table);

constexpr uint64_t COST_UNIT = 1 << 16;

// Size of a table in a payload: frequencies, the byte that makes their number even, values.
static constexpr size_t table_bytes(uint32_t n_symbols) {
    return n_symbols + n_symbols % 2 + 2 * n_symbols;
}

void write_frequency_table(const FrequencyTable& table, uint8_t* to);

// Read and validate a table of table_bytes(n_symbols) bytes, MIN_SYMBOLS to MAX_SYMBOLS of them.
// escape comes from the payload and is checked here.
Status read_frequency_table(const uint8_t* from, uint32_t n_symbols, uint32_t escape,
                            const FieldMap& map, FrequencyTable& table);

void build_decode_table(const FrequencyTable& table, DecodeTable& decode);

}  // namespace wcodec
