// SPDX-License-Identifier: Apache-2.0
//
// Unaligned little-endian reads and writes, and alignment. The host is little-endian; a big-endian
// one does not compile.
//
// Functions in headers are static: each file has its own copies. Of an inline function with
// external linkage the linker keeps one copy of any file, and that could be one built with ISA
// flags.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace wcodec {

static_assert(std::endian::native == std::endian::little, "wcodec needs a little-endian host");

template <typename T>
static inline T read_as(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
}

template <typename T>
static inline void write_as(uint8_t* to, T value) {
    std::memcpy(to, &value, sizeof(T));
}

static constexpr uint64_t align_up(uint64_t n, uint64_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

static inline bool all_zero(const uint8_t* from, const uint8_t* end) {
    uint8_t seen = 0;
    for (; from < end; ++from) seen |= *from;
    return seen == 0;
}

}  // namespace wcodec
