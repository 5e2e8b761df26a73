// SPDX-License-Identifier: Apache-2.0
//
// What the encoder of rans32 takes for a block: which bits of a unit are its code, which codes are
// symbols, and classes of rows and columns with a frequency table each, by integer costs. The
// decoder knows nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "level_table.hpp"
#include "rans32_units.hpp"

namespace wcodec {

constexpr uint32_t SIGN_RAW_SPLITS = 16;

struct Rans32Options {
    // Bit k: a code without the lowest k of the highest 16 bits (8 in units of a byte) may be tried
    // with the sign coded; bit SIGN_RAW_SPLITS + k: with the sign raw. Not 0.
    uint32_t split_set;
    uint32_t exponent_bits;  // of units that are floats; 0: integers
    bool classes;            // whether classes of rows and columns are tried
};

struct Rans32Choice {
    UnitSplit split;
    Alphabet alphabet;
    uint32_t n_tables;
    LevelTable tables[MAX_RANS32_TABLES];
    bool row_classes;  // whether there are any
    bool col_classes;
    uint64_t cost;  // of everything, in 1 / LEVEL_COST_UNIT bits
};

size_t rans32_choice_scratch_bytes(uint64_t max_units);

// Choose for a block. row_class and col_class have a place for each row and column; all 0 where
// there are no classes. symbols has one for each unit.
void choose_rans32(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                   const Rans32Options& options, uint8_t* scratch, Rans32Choice& choice,
                   uint8_t* row_class, uint8_t* col_class, uint8_t* symbols);

// Classes as they are stored: a base and, as small numbers, the distances from it.
struct ClassCoding {
    uint32_t base;
    uint32_t parameter;
    uint64_t bits;
};
constexpr uint32_t CLASS_HEAD_BITS = 4 + 3;
ClassCoding best_class_coding(const uint32_t* counts);  // by class, MAX_RANS32_CLASS the last

}  // namespace wcodec
