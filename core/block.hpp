// SPDX-License-Identifier: Apache-2.0
//
// One block: from units in a matrix to the bytes of a file (header, payload, padding) and back.
// Here sizes and tables are checked; the kernels below only compute. lz and row-group blocks are
// framed and checked here, and their zstd frames coded by Python.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bytes.hpp"
#include "gpu_descriptors.hpp"
#include "kernels.hpp"
#include "rans32_choice.hpp"
#include "status.hpp"
#include "stream_format.hpp"
#include "tile_choice.hpp"

namespace wcodec {

struct BlockHeader {
    uint32_t crc;
    uint8_t coding;
    uint8_t form;
    uint8_t n_streams;
    uint8_t reserved;
    uint64_t payload_bytes;
};
static_assert(sizeof(BlockHeader) == BLOCK_HEADER_BYTES);

// Size in a file of a block with this payload.
constexpr uint64_t block_bytes(uint64_t payload_bytes) {
    return BLOCK_HEADER_BYTES + align_up(payload_bytes, BLOCK_ALIGNMENT);
}

// Where the units of a block are: row r begins at base + row * row_stride, row = r or row_index[r].
struct BlockView {
    uint8_t* base;
    uint64_t row_stride;  // bytes
    uint32_t rows;
    uint32_t cols;
    uint32_t unit_bytes;
    const uint32_t* row_index;  // null: the rows follow each other

    uint64_t n_units() const { return uint64_t(rows) * cols; }
    uint64_t n_bytes() const { return n_units() * unit_bytes; }
    uint64_t row_bytes() const { return uint64_t(cols) * unit_bytes; }
    uint8_t* row(uint32_t r) const { return base + (row_index ? row_index[r] : r) * row_stride; }
    bool contiguous() const { return !row_index && (rows == 1 || row_stride == row_bytes()); }
};

struct EncodeOptions {
    uint8_t family;      // what may be used beside raw and constant: any but lz
    uint32_t form_set;   // of rans16: bit f: form f may be used
    uint32_t n_streams;  // of a rans16 block
    bool verify;         // decode each block again and compare
    SpatialOptions spatial;
    Rans32Options rans32;
};

// Working memory of one thread for blocks of up to max_units units; allocated by the caller of the
// entries below.
size_t encode_scratch_bytes(uint8_t family, uint64_t max_units, uint32_t unit_bytes);
size_t decode_scratch_bytes(uint8_t family, uint64_t max_units, uint32_t unit_bytes);

// What the decoder may be told to be faster.
struct DecodeHints {
    bool streaming = false;  // what is written will leave the caches anyway
    Ahead ahead;             // the block that will be decoded next
};

// Where an encoded block lies in the scratch memory; its size is block_bytes(header.payload_bytes),
// at most block_bytes(view.n_bytes()).
struct EncodedBlock {
    BlockHeader header;
    uint8_t* begin;
};

// Encode and seal a block, and verify it if `options` say so. `ahead`: the units that will be
// encoded next.
Status encode_block(const BlockView& view, const EncodeOptions& options, uint8_t* scratch,
                    EncodedBlock& block, const Ahead& ahead = {});

// Check the block at `from` against its header in the directory and write its units. `family` is
// the coding allowed beside raw and constant. Blocks of coding lz or row groups are checked only.
// READ_SLACK_BYTES behind the block must be readable.
Status decode_block(const uint8_t* from, const BlockHeader& header, uint8_t family,
                    const BlockView& view, uint8_t* scratch, const DecodeHints& hints = {});

// Where a GPU finds the payload of a block and puts its units.
struct DevicePlace {
    uint64_t payload;     // address, a multiple of 16
    uint64_t output;      // address of the first unit
    uint64_t row_stride;  // bytes
    uint32_t rows;
    uint32_t cols;
    uint32_t unit_bytes;
};

// Descriptors to fill in, and room for parameters of rans32 and spatial.
struct DeviceRecords {
    StreamDescriptor* streams;
    Rans32Descriptor* rans32;
    SpatialDescriptor* spatial;
    CopyDescriptor* copies;
    uint8_t* parameters;
};

// What a block fills in, going by its header: a descriptor for each stream of rans16, else one.
constexpr uint32_t n_streams_of(const BlockHeader& header) {
    return header.coding == CODING_RANS16 ? header.n_streams : 0;
}
constexpr bool is_copied(const BlockHeader& header) {
    return header.coding != CODING_RANS16 && header.coding != CODING_RANS32 &&
           header.coding != CODING_SPATIAL;
}
// The most bytes of parameters of a block.
constexpr uint64_t parameter_room(const BlockHeader& header, uint32_t rows, uint32_t cols) {
    if (header.coding == CODING_RANS32) return RANS32_PARAMETERS_BYTES + uint64_t(rows) + cols;
    if (header.coding != CODING_SPATIAL) return 0;
    return SPATIAL_PARAMETERS_BYTES +
           uint64_t(tiles_along(rows, MIN_TILE_LOG2)) * tiles_along(cols, MIN_TILE_LOG2);
}

// Check the block at `from` as decode_block() does, but for what its streams ask for, and say what
// a GPU needs to decode it. Moves `records` behind what is filled in, or, of a bad block, behind
// what it would have filled in but for parameters. The address of parameters is left 0. Other
// codings than raw, constant, rans16, rans32 and spatial are BAD_CODING.
Status describe_block(const uint8_t* from, const BlockHeader& header, uint8_t family,
                      const DevicePlace& place, DeviceRecords& records);

}  // namespace wcodec
