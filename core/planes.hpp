// SPDX-License-Identifier: Apache-2.0
//
// Words <-> symbol values and raw fields (docs/format.md section 8: field maps, lanes, raw fields),
// one step of 128 at a time. Values are in lane order: value[64 g + p] belongs to lane p of group
// g.
#pragma once

#include <cstddef>
#include <cstdint>

#include "stream_format.hpp"

namespace wcodec {

static constexpr size_t step_raw_bytes(const FieldMap& map) {
    return size_t(map.top_field) + map.low_fields;
}

// Write the values and raw fields of n_steps steps of words. `values` holds 128 n_steps entries,
// `raw` step_raw_bytes(map) each.
void split_steps_scalar(Form form, const uint8_t* words, size_t n_steps, uint16_t* values,
                        uint8_t* raw);

// Write the 128 words of one step.
void join_step_scalar(Form form, const uint16_t* values, const uint8_t* raw, uint8_t* words);

}  // namespace wcodec
