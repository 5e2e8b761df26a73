// SPDX-License-Identifier: Apache-2.0
//
// Frequency tables of rans32 as they are stored: logarithms of the frequencies, as coarse as the
// encoder likes, and the differences from one symbol to the next as small numbers (docs/format.md
// section 16). A table of 100 symbols takes about 30 bytes.
#pragma once

#include <cstdint>

#include "bit_string.hpp"
#include "stream_format.hpp"
#include "token_coder.hpp"

namespace wcodec {

constexpr uint64_t LEVEL_COST_UNIT = 256;  // costs are in 1 / 256 bit

static constexpr uint32_t max_level(uint32_t precision) {
    return (TOKEN_SCALE_BITS << precision) + 1;
}

// ---- small numbers, 0 to 255: the quotient by 2^k in ones, the rest in bits ----

constexpr uint32_t MAX_SMALL_PARAMETER = 7;
constexpr uint32_t SMALL_QUOTIENTS = 16;  // as many ones: the number follows in 8 bits
constexpr uint32_t MAX_SMALL_BITS = SMALL_QUOTIENTS + 8;

static constexpr uint32_t small_number_bits(uint32_t number, uint32_t k) {
    const uint32_t quotient = number >> k;
    return quotient < SMALL_QUOTIENTS ? quotient + 1 + k : MAX_SMALL_BITS;
}
void put_small_number(BitWriter& writer, uint32_t number, uint32_t k);
uint32_t take_small_number(BitReader& reader, uint32_t k);

// The parameter that makes these numbers shortest, by how often each occurs, up to the largest;
// `bits` is their size.
uint32_t best_small_parameter(const uint32_t* counts, uint32_t largest, uint64_t& bits);

// ---- tables ----

struct LevelTable {
    uint32_t precision;
    uint32_t parameter;  // of the small numbers
    uint8_t level[256];  // 0: not in the table
    TokenTable frequencies;
};

// Fill in the frequencies of n_symbols levels, which are not all 0.
void find_frequencies(LevelTable& table, uint32_t n_symbols);

// Choose levels for counts; all 0 are legal, too. Returns the cost of the symbols and the table.
uint64_t build_level_table(const uint32_t* counts, uint32_t n_symbols, LevelTable& table);

// What build_level_table() returns is not less than this, which is found much faster.
uint64_t least_cost(const uint32_t* counts, uint32_t n_symbols);

constexpr uint32_t MAX_LEVEL_TABLE_BITS = 5 + 256 * MAX_SMALL_BITS;
void write_level_table(const LevelTable& table, uint32_t n_symbols, BitWriter& writer);

// Read a table of a hostile string that ends at bit `end`; up to 8 bytes behind it may be looked
// at. False: it ends before the table, or this is none.
bool read_level_table(BitReader& reader, uint64_t end, uint32_t n_symbols, LevelTable& table);

}  // namespace wcodec
