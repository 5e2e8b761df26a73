// SPDX-License-Identifier: Apache-2.0
//
// What a GPU is told about a block: all that the host has found out and checked, so that a kernel
// only decodes. block.cpp fills these in, the kernels of cuda/kernels obey them. Compiled by the
// C++ compiler, by nvcc and by NVRTC; addresses are those of the device's memory.
#pragma once

#include "stream_format.hpp"

namespace wcodec {

// One stream of a block. Offsets count from the payload and are as docs/format.md lays them out.
struct alignas(16) StreamDescriptor {
    uint64_t payload;        // address, a multiple of 16
    uint64_t output;         // address of the block's first unit; any, fastest at multiples of 16
    uint64_t row_stride;     // bytes from a row of the block to the next in the output
    uint32_t row_units;      // units in a row of the block; at least 1
    uint32_t table_offset;   // of the frequencies
    uint32_t states_offset;  // of the stream: 256 bytes of states, then its bytes
    uint32_t stream_bytes;
    uint32_t escapes_offset;  // of the stream's escape lists
    uint32_t n_escapes;
    uint32_t raw_offset;  // of the raw fields of the stream's first step
    uint32_t first_step;  // the number of that step in the block
    uint32_t n_steps;
    uint16_t tail_units;  // units after the raw fields: n % 128 in the last stream, else 0
    uint8_t n_symbols;
    uint8_t escape;  // index of the escape symbol, or NO_ESCAPE
};
static_assert(sizeof(StreamDescriptor) == 64);

// A block of coding rans32. What its parameters say is laid out for the kernel in memory of its
// own, at a multiple of 16: a u16 code for each symbol; for each table n_symbols + 1 u16, the sums
// of the frequencies before each symbol and of all; a u8 class for each row, then for each column,
// where they have any.
struct alignas(16) Rans32Descriptor {
    uint64_t payload;     // address, a multiple of 16
    uint64_t output;      // address of the block's first unit
    uint64_t row_stride;  // bytes from a row of the block to the next in the output
    uint64_t parameters;  // address
    uint32_t n_rows;
    uint32_t row_units;
    uint32_t stream_offset;  // of the states, then the words
    uint32_t stream_bytes;   // of both
    uint32_t escapes_offset;
    uint32_t n_escapes;
    uint32_t raw_offset;
    uint16_t n_symbols;  // 1 to 256
    uint8_t n_tables;    // 1 to 16
    uint8_t flags;       // RANS32_...
    uint8_t code_bits;
    uint8_t code_shift;  // the lowest bit of the code in a unit
    uint8_t raw_bits;
    uint8_t zero_bits;
    uint32_t reserved[3];  // 0
};
static_assert(sizeof(Rans32Descriptor) == 80);
constexpr uint32_t RANS32_ESCAPE = 1;       // the last symbol is the escape
constexpr uint32_t RANS32_ROW_CLASSES = 2;  // the rows have classes
constexpr uint32_t RANS32_COL_CLASSES = 4;
constexpr uint32_t RANS32_SIGN = 8;  // the highest bit of a unit is raw

// Room for the parameters of a block, beside a byte for each row and each column.
constexpr uint32_t RANS32_PARAMETERS_BYTES =
    2 * MAX_ALPHABET + 2 * MAX_RANS32_TABLES * (MAX_ALPHABET + 1) + 16;

// A block of coding spatial. In memory of its own, at a multiple of 16, are its parameters: for
// each table N_TOKENS + 1 u16, the sums of the frequencies before each token and of all; a byte for
// each tile, as docs/format.md section 15 has it.
struct alignas(16) SpatialDescriptor {
    uint64_t payload;     // address, a multiple of 16
    uint64_t output;      // address of the block's first unit; any, fastest at multiples of 16
    uint64_t row_stride;  // bytes from a row of the block to the next in the output
    uint64_t parameters;  // address
    uint32_t n_rows;
    uint32_t row_units;
    uint32_t stream_offset;  // of the states, then the words
    uint32_t stream_bytes;   // of both
    uint32_t raw_offset;     // at least 16
    uint32_t raw_bytes;
    uint8_t tile_log2;
    uint8_t n_tables;
    uint8_t form;
    uint8_t reserved[5];  // 0
};
static_assert(sizeof(SpatialDescriptor) == 64);

// Room for the parameters of a block, beside a byte for each tile.
constexpr uint32_t SPATIAL_PARAMETERS_BYTES = 2 * MAX_TILE_TABLES * (N_TOKENS + 1) + 16;

// A block of coding raw or constant, or one that was decoded and belongs elsewhere.
struct CopyDescriptor {
    uint64_t source;      // address of the first row; of a constant, of its unit
    uint64_t output;      // address of the block's first unit; any, fastest at multiples of 16
    uint64_t row_stride;  // bytes from a row of the block to the next in the output
    uint64_t row_map;     // address of a u32 for each row of the block: where it is in the output,
                          // counted in rows from `output`, or NO_ROW; 0: they follow each other
    uint32_t source_stride;  // bytes from a row of the block to the next in the source
    uint32_t row_bytes;      // of the block; at least 1
    uint32_t n_rows;         // row_bytes * n_rows is at most 2^25
    uint32_t unit_bytes;     // constant: 1, 2, 4 or 8; else 0
};
static_assert(sizeof(CopyDescriptor) == 48);

constexpr uint32_t NO_ROW = 0xFFFFFFFF;  // of a row map: the row is not wanted

// Bits of a stream's status; 0 is good.
constexpr uint32_t STATUS_STATES = 1;   // a final state is not that of a whole stream
constexpr uint32_t STATUS_BYTES = 2;    // more or fewer bytes used than the stream has
constexpr uint32_t STATUS_ESCAPES = 4;  // more or fewer escapes used than there are
constexpr uint32_t STATUS_RAW = 8;      // the tokens ask for more or fewer raw bytes than there are
constexpr uint32_t STATUS_PADDING = 16;  // bits after the raw bits are not 0

}  // namespace wcodec
