// SPDX-License-Identifier: Apache-2.0
//
// Blocks of the codings raw and constant (docs/format.md section 7), and those of row groups after
// they were decoded: rows copied, or filled with one unit. The threads of a CTA share a block and
// do not depend on each other, so the host runs copy_block() for one thread after the other.
#pragma once

#include "gpu_descriptors.hpp"
#include "warp.hpp"

namespace wcodec {

// Store the block in pieces of type T, whose size divides the addresses, the stride and the rows.
// A constant is given as its unit repeated to 8 bytes.
template <class T>
WCODEC_INLINE void copy_pieces(const CopyDescriptor& block, const uint32_t (&constant)[2],
                               uint32_t thread, uint32_t n_threads) {
    const uint32_t n_bytes = block.row_bytes * block.n_rows;
    for (uint32_t at = thread * sizeof(T); at < n_bytes; at += n_threads * sizeof(T)) {
        uint32_t row = at / block.row_bytes;
        const uint32_t column = at % block.row_bytes;
        const uint64_t from = block.source + uint64_t(row) * block.source_stride + column;
        if (block.row_map != 0)
            row = load<uint32_t>(reinterpret_cast<const uint8_t*>(block.row_map) + 4 * row);
        if (row == NO_ROW) continue;
        T piece;
        if (block.unit_bytes == 0) {
            piece = load<T>(reinterpret_cast<const uint8_t*>(from));
        } else if constexpr (sizeof(T) == sizeof(Bytes16)) {
            piece = T{{constant[0], constant[1], constant[0], constant[1]}};
        } else {
            piece = T((column & 4 ? constant[1] : constant[0]) >> 8 * (column % 4));
        }
        store(reinterpret_cast<uint8_t*>(block.output) + row * block.row_stride + column, piece);
    }
}

WCODEC_INLINE void copy_block(const CopyDescriptor& block, uint32_t thread, uint32_t n_threads) {
    uint32_t constant[2] = {0, 0};
    if (block.unit_bytes != 0) {
        const uint8_t* const unit = reinterpret_cast<const uint8_t*>(block.source);
        WCODEC_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            constant[i / 4] |= uint32_t(load<uint8_t>(unit + i % block.unit_bytes)) << 8 * (i % 4);
        }
    }
    const bool has_rows = block.n_rows > 1 || block.row_map != 0;
    const uint64_t all = (block.unit_bytes == 0 ? block.source | block.source_stride : 0) |
                         block.output | (has_rows ? block.row_stride : 0) | block.row_bytes;
    if (all % sizeof(Bytes16) == 0) {
        copy_pieces<Bytes16>(block, constant, thread, n_threads);
    } else if (all % sizeof(uint32_t) == 0) {
        copy_pieces<uint32_t>(block, constant, thread, n_threads);
    } else {
        copy_pieces<uint8_t>(block, constant, thread, n_threads);
    }
}

}  // namespace wcodec
