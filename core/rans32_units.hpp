// SPDX-License-Identifier: Apache-2.0
//
// rans32: units <-> codes and raw bits, and the alphabet of the codes (docs/format.md section 16).
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.hpp"
#include "stream_format.hpp"

namespace wcodec {

// How a unit splits: code_bits of its highest bits are the code (after the sign where that is raw),
// zero_bits of its lowest are 0, all others raw.
struct UnitSplit {
    uint8_t unit_bytes;
    uint8_t sign_raw;  // 0 or 1
    uint8_t low_bits;  // of the top that are not coded
    uint8_t zero_bits;

    // The top of a unit, of which the code is taken.
    uint32_t top_bits() const { return unit_bytes == 1 ? 8 : 16; }
    uint32_t code_bits() const { return top_bits() - low_bits - sign_raw; }
    uint32_t code_shift() const { return 8u * unit_bytes - sign_raw - code_bits(); }
    uint32_t raw_bits() const { return 8u * unit_bytes - code_bits() - zero_bits; }
    uint32_t code_of(uint32_t top) const {
        return (top & ((1u << (top_bits() - sign_raw)) - 1)) >> low_bits;
    }
    // Of fields that may be hostile; unit_bytes and sign_raw are not.
    bool legal() const {
        return low_bits + uint32_t{sign_raw} < top_bits() && zero_bits <= code_shift() &&
               raw_bits() <= MAX_RANS32_RAW_BITS;
    }
};

// Codes that are symbols, ascending, as runs of consecutive ones; after them, perhaps, the escape.
struct Alphabet {
    uint32_t n_symbols;  // 1 to 256, the escape included
    bool escape;         // the last symbol is the escape
    uint16_t code[256];  // 0 of the escape
};
constexpr uint32_t RUN_BYTES = 3;
constexpr uint32_t MAX_RUNS = 255;

uint32_t count_runs(const Alphabet& alphabet);
void write_runs(const Alphabet& alphabet, uint8_t* to);
// Read n_runs runs; false: they overlap, do not ascend, or leave code_bits or the alphabet.
bool read_runs(const uint8_t* from, uint32_t n_runs, bool escape, uint32_t code_bits,
               Alphabet& alphabet);

// Write the raw bits of n units; returns the end. Up to 8 bytes behind it may be overwritten.
uint8_t* write_raw_bits(const UnitSplit& split, const uint8_t* units, size_t n, uint8_t* to);

// Put n units together. 8 bytes behind the raw bits are readable. The codes of escapes are in a
// list of n_escapes, of a byte each in units of a byte, else of two.
Status join_units(const UnitSplit& split, const Alphabet& alphabet, const uint8_t* symbols,
                  size_t n, const uint8_t* raw, const uint8_t* escapes, uint64_t n_escapes,
                  uint8_t* units);

static constexpr uint32_t escape_bytes(uint32_t unit_bytes) { return unit_bytes == 1 ? 1 : 2; }

}  // namespace wcodec
