// SPDX-License-Identifier: Apache-2.0
//
// Strings of bits: numbers of any width one after the other, the first bit lowest.
#pragma once

#include <cstdint>

#include "bytes.hpp"

namespace wcodec {

constexpr uint32_t MAX_PUT_BITS = 56;

// Up to 8 bytes behind what is written may be overwritten.
class BitWriter {
public:
    explicit BitWriter(uint8_t* to) : to_(to) {}
    void put(uint64_t bits, uint32_t n) {  // n <= MAX_PUT_BITS
        held_ |= bits << n_held_;
        n_held_ += n;
        write_as(to_, held_);
        to_ += n_held_ / 8;
        held_ >>= n_held_ / 8 * 8;
        n_held_ %= 8;
    }
    uint8_t* finish() { return n_held_ > 0 ? to_ + 1 : to_; }  // the end of the string

private:
    uint8_t* to_;
    uint64_t held_ = 0;
    uint32_t n_held_ = 0;
};

// Reads what a BitWriter wrote. The caller sees to it that there are enough bits; 8 bytes behind
// them are readable.
class BitReader {
public:
    explicit BitReader(const uint8_t* from) : from_(from) {}
    uint64_t take(uint32_t n) {  // n <= MAX_PUT_BITS
        const uint64_t window = read_as<uint64_t>(from_ + at_ / 8) >> at_ % 8;
        at_ += n;
        return window & ((uint64_t{1} << n) - 1);
    }
    uint64_t bits_taken() const { return at_; }

private:
    const uint8_t* from_;
    uint64_t at_ = 0;
};

}  // namespace wcodec
