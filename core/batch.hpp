// SPDX-License-Identifier: Apache-2.0
//
// Many blocks of one matrix at once: an array of descriptors in, an array of headers or statuses
// out. A block takes some tens of microseconds, so the loop over blocks lives here and not in
// Python.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.hpp"

namespace wcodec {

// Where a block lies: its units in the matrix, its bytes in the data. Filled by Python
// (codec/batch.py), checked by bindings.cpp.
struct BlockDescriptor {
    uint64_t matrix_offset;    // bytes from the matrix to the first unit of row 0 (of the block, or
                               // of the matrix with row_index)
    uint64_t row_stride;       // bytes
    uint64_t data_offset;      // of the block's header; decoding only
    uint64_t row_index_first;  // first entry in the row index array; NO_ROW_INDEX: rows follow each
                               // other
    uint32_t rows;
    uint32_t cols;
};
static_assert(sizeof(BlockDescriptor) == 40);
constexpr uint64_t NO_ROW_INDEX = UINT64_MAX;

struct Batch {
    uint8_t* matrix;  // the encoder only reads it
    uint32_t unit_bytes;
    const BlockDescriptor* descriptors;
    size_t n_blocks;
    const uint32_t* row_index;
    uint8_t* data;  // the decoder only reads it
    BlockHeader* headers;
    Status* statuses;
    size_t n_threads;
    uint8_t* scratch;  // n_threads times scratch_bytes
    size_t scratch_bytes;
};

// Encodes the blocks into the data, back to back; `data_offset` plays no part. Returns their size.
uint64_t encode_blocks(const Batch& batch, const EncodeOptions& options);
void decode_blocks(const Batch& batch, uint8_t family);

// What a GPU needs to decode blocks: their data and their matrix lie at these addresses there.
// Blocks fill the records in their order.
struct DeviceBatch {
    uint64_t data;
    uint64_t matrix;
    DeviceRecords records;
};

// Checks the blocks; the host has their data but no matrix, and row_index plays no part. Returns
// the size of the parameters, from whose beginning their addresses count.
uint64_t describe_blocks(const Batch& batch, uint8_t family, const DeviceBatch& device);

}  // namespace wcodec
