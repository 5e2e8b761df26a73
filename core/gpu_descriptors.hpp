// SPDX-License-Identifier: Apache-2.0
//
// What a GPU is told about a block: all that the host has found out and checked, so that a kernel
// only decodes. block.cpp fills these in, the kernels of cuda/kernels obey them. Compiled by the
// C++ compiler, by nvcc and by NVRTC; addresses are those of the device's memory.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <stdint.h>
#endif

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

// A block of coding raw or constant.
struct CopyDescriptor {
    uint64_t source;      // address of the units, row after row; of a constant, of the unit
    uint64_t output;      // address of the block's first unit; any, fastest at multiples of 16
    uint64_t row_stride;  // bytes from a row of the block to the next in the output
    uint32_t row_bytes;   // of the block; at least 1
    uint32_t n_rows;      // row_bytes * n_rows is at most 2^25
    uint32_t unit_bytes;  // constant: 1, 2, 4 or 8; raw: 0
    uint32_t reserved;    // 0
};
static_assert(sizeof(CopyDescriptor) == 40);

// Bits of a stream's status; 0 is good.
constexpr uint32_t STATUS_STATES = 1;   // a final state is not 0x0100
constexpr uint32_t STATUS_BYTES = 2;    // more or fewer bytes used than the stream has
constexpr uint32_t STATUS_ESCAPES = 4;  // more or fewer escapes used than the stream has

}  // namespace wcodec
