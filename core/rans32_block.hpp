// SPDX-License-Identifier: Apache-2.0
//
// The payload of a rans32 block: its parts in the order of docs/format.md section 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_descriptors.hpp"
#include "rans32_choice.hpp"
#include "status.hpp"

namespace wcodec {

size_t encode_rans32_scratch_bytes(uint64_t max_units);
size_t decode_rans32_scratch_bytes(uint64_t max_units);

// Encode a block of contiguous units. Writes less than n * w bytes to `payload`, which has room for
// READ_SLACK_BYTES more, and returns their number, and the form; or 0, if that would not be smaller
// than the units.
uint64_t encode_rans32(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                       const Rans32Options& options, uint8_t* scratch, uint8_t* payload,
                       Rans32Form& form);

// Decode contiguous units. READ_SLACK_BYTES behind the payload are readable; everything in it is
// untrusted.
Status decode_rans32(const uint8_t* payload, uint64_t payload_bytes, Rans32Form form, uint32_t rows,
                     uint32_t cols, uint32_t w, uint8_t* scratch, uint8_t* units);

// Check a payload as decode_rans32() does, but for what its stream asks for, and say what a GPU
// needs to decode it; addresses and row_stride are left alone. `parameters` has room for
// RANS32_PARAMETERS_BYTES + rows + cols; parameter_bytes of it, a multiple of 16, are used.
Status describe_rans32(const uint8_t* payload, uint64_t payload_bytes, Rans32Form form,
                       uint32_t rows, uint32_t cols, uint32_t w, Rans32Descriptor& block,
                       uint8_t* parameters, uint64_t& parameter_bytes);

}  // namespace wcodec
