// SPDX-License-Identifier: Apache-2.0
//
// The payload of a spatial block: its parts in the order of docs/format.md section 15.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_descriptors.hpp"
#include "status.hpp"
#include "tile_choice.hpp"

namespace wcodec {

size_t encode_spatial_scratch_bytes(uint64_t max_units, uint32_t unit_bytes);
size_t decode_spatial_scratch_bytes(uint64_t max_units);

// Write the payload of rows x cols contiguous units; 0 if it would not be smaller than they are.
// `scratch` is aligned to 64.
uint64_t encode_spatial(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                        const SpatialOptions& options, uint8_t* scratch, uint8_t* payload);

// Decode a payload, in which everything is untrusted, to rows x cols contiguous units. w is 1, 2 or
// 4, form < N_SPATIAL_FORMS.
Status decode_spatial(const uint8_t* payload, uint64_t payload_bytes, SpatialForm form,
                      uint32_t rows, uint32_t cols, uint32_t w, uint8_t* scratch, uint8_t* units);

// Check a payload as decode_spatial() does, but for its tokens and raw bits, and say what a GPU
// needs to decode it; addresses and row_stride are left alone. `parameters` has room for
// spatial_parameters_bytes(); parameter_bytes of it, a multiple of 16, are used.
Status describe_spatial(const uint8_t* payload, uint64_t payload_bytes, SpatialForm form,
                        uint32_t rows, uint32_t cols, SpatialDescriptor& block, uint8_t* parameters,
                        uint64_t& parameter_bytes);

}  // namespace wcodec
