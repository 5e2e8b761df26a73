// SPDX-License-Identifier: Apache-2.0
#include "batch.hpp"

#include "pool.hpp"

namespace wcodec {
namespace {

BlockView view_of(const Batch& batch, const BlockDescriptor& descriptor) {
    const uint32_t* row_index = descriptor.row_index_first == NO_ROW_INDEX
                                    ? nullptr
                                    : batch.row_index + descriptor.row_index_first;
    return {batch.matrix + descriptor.matrix_offset,
            descriptor.row_stride,
            descriptor.rows,
            descriptor.cols,
            batch.unit_bytes,
            row_index};
}

struct EncodeJob {
    const Batch& batch;
    const EncodeOptions& options;
};

struct DecodeJob {
    const Batch& batch;
    uint8_t family;
};

}  // namespace

void encode_blocks(const Batch& batch, const EncodeOptions& options) {
    EncodeJob job{batch, options};
    run_tasks(
        batch.n_blocks, batch.n_threads,
        [](void* context, size_t i, size_t slot) {
            const auto& [batch, options] = *static_cast<EncodeJob*>(context);
            const BlockDescriptor& descriptor = batch.descriptors[i];
            batch.statuses[i] = encode_block(view_of(batch, descriptor), options,
                                             batch.scratch + slot * batch.scratch_bytes,
                                             batch.data + descriptor.data_offset, batch.headers[i]);
        },
        &job);
}

void decode_blocks(const Batch& batch, uint8_t family) {
    DecodeJob job{batch, family};
    run_tasks(
        batch.n_blocks, batch.n_threads,
        [](void* context, size_t i, size_t slot) {
            const auto& [batch, family] = *static_cast<DecodeJob*>(context);
            const BlockDescriptor& descriptor = batch.descriptors[i];
            batch.statuses[i] = decode_block(batch.data + descriptor.data_offset, batch.headers[i],
                                             family, view_of(batch, descriptor),
                                             batch.scratch + slot * batch.scratch_bytes);
        },
        &job);
}

}  // namespace wcodec
