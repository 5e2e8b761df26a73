// SPDX-License-Identifier: Apache-2.0
#include "batch.hpp"

#ifdef WCODEC_X86_64
#include <emmintrin.h>
#endif

#include <condition_variable>
#include <cstring>
#include <mutex>

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

// Where the next block goes. Blocks lie back to back in order, so each waits for the size of the
// one before it; tasks are handed out in order, so that one is already at work.
class Places {
public:
    uint64_t take(size_t block, uint64_t size) {
        std::unique_lock lock(mutex_);
        taken_.wait(lock, [&] { return next_ == block; });
        const uint64_t place = end_;
        end_ += size;
        ++next_;
        lock.unlock();
        taken_.notify_all();
        return place;
    }
    uint64_t end() const { return end_; }

private:
    std::mutex mutex_;
    std::condition_variable taken_;
    size_t next_ = 0;
    uint64_t end_ = 0;
};

// What is written of this size is taken to leave the caches before somebody reads it: it is more
// than a core's share of the last cache. (Measured: benchmarks/blocks.py.)
constexpr uint64_t STREAMING_BYTES = uint64_t(8) << 20;

struct EncodeJob {
    const Batch& batch;
    const EncodeOptions& options;
    bool streaming;
    Places places;

    // The units of the block that this thread will probably get next.
    Ahead ahead_of(size_t i) const {
        const size_t next = i + batch.n_threads;
        if (next >= batch.n_blocks) return {};
        const BlockView view = view_of(batch, batch.descriptors[next]);
        if (view.contiguous()) return {view.base, 1, view.n_bytes(), 0};
        if (view.row_index) return {};
        return {view.base, view.rows, view.row_bytes(), view.row_stride};
    }
};

// Copies a block past the caches, where the processor can.
void copy_streaming(uint8_t* to, const uint8_t* from, uint64_t size) {
#ifdef WCODEC_X86_64
    if (reinterpret_cast<uintptr_t>(to) % BLOCK_ALIGNMENT == 0) {
        static_assert(BLOCK_ALIGNMENT == sizeof(__m128i));
        for (uint64_t i = 0; i < size; i += BLOCK_ALIGNMENT)
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
        _mm_sfence();
        return;
    }
#endif
    std::memcpy(to, from, size);
}

// A block of this size has room in a core's own cache beside the one being decoded. (Measured: with
// 420 KiB, fetching ahead costs a fifth of the speed; with 170 KiB it gains a tenth.)
constexpr uint64_t MAX_AHEAD_BYTES = uint64_t(256) << 10;

struct DecodeJob {
    const Batch& batch;
    uint8_t family;
    bool streaming;

    // The block that this thread will probably get next.
    Ahead ahead_of(size_t i) const {
        const size_t next = i + batch.n_threads;
        if (next >= batch.n_blocks) return {};
        const uint64_t size = block_bytes(batch.headers[next].payload_bytes);
        if (size > MAX_AHEAD_BYTES) return {};
        return {batch.data + batch.descriptors[next].data_offset, 1, size, 0};
    }
};

uint64_t matrix_bytes(const Batch& batch) {
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < batch.n_blocks; ++i)
        n_bytes +=
            uint64_t(batch.descriptors[i].rows) * batch.descriptors[i].cols * batch.unit_bytes;
    return n_bytes;
}

}  // namespace

uint64_t encode_blocks(const Batch& batch, const EncodeOptions& options) {
    EncodeJob job{batch, options, matrix_bytes(batch) >= STREAMING_BYTES, {}};
    run_tasks(
        batch.n_blocks, batch.n_threads,
        [](void* context, size_t i, size_t slot) {
            auto& job = *static_cast<EncodeJob*>(context);
            const Batch& batch = job.batch;
            EncodedBlock block;
            batch.statuses[i] =
                encode_block(view_of(batch, batch.descriptors[i]), job.options,
                             batch.scratch + slot * batch.scratch_bytes, block, job.ahead_of(i));
            batch.headers[i] = block.header;
            const uint64_t size = block_bytes(block.header.payload_bytes);
            uint8_t* const to = batch.data + job.places.take(i, size);
            if (job.streaming) {
                copy_streaming(to, block.begin, size);
            } else {
                std::memcpy(to, block.begin, size);
            }
        },
        &job);
    return job.places.end();
}

void decode_blocks(const Batch& batch, uint8_t family) {
    DecodeJob job{batch, family, matrix_bytes(batch) >= STREAMING_BYTES};
    run_tasks(
        batch.n_blocks, batch.n_threads,
        [](void* context, size_t i, size_t slot) {
            const auto& job = *static_cast<DecodeJob*>(context);
            const Batch& batch = job.batch;
            const BlockDescriptor& descriptor = batch.descriptors[i];
            batch.statuses[i] =
                decode_block(batch.data + descriptor.data_offset, batch.headers[i], job.family,
                             view_of(batch, descriptor), batch.scratch + slot * batch.scratch_bytes,
                             {job.streaming, job.ahead_of(i)});
        },
        &job);
}

uint64_t describe_blocks(const Batch& batch, uint8_t family, const DeviceBatch& device) {
    DeviceRecords records = device.records;
    for (size_t i = 0; i < batch.n_blocks; ++i) {
        const BlockDescriptor& block = batch.descriptors[i];
        const DevicePlace place{device.data + block.data_offset + BLOCK_HEADER_BYTES,
                                device.matrix + block.matrix_offset,
                                block.row_stride,
                                block.rows,
                                block.cols,
                                batch.unit_bytes};
        Rans32Descriptor* const rans32 = records.rans32;
        SpatialDescriptor* const spatial = records.spatial;
        const auto before = static_cast<uint64_t>(records.parameters - device.records.parameters);
        batch.statuses[i] = describe_block(batch.data + block.data_offset, batch.headers[i], family,
                                           place, records);
        if (batch.statuses[i] != Status::OK) continue;
        if (rans32 != records.rans32) rans32->parameters = before;
        if (spatial != records.spatial) spatial->parameters = before;
    }
    return static_cast<uint64_t>(records.parameters - device.records.parameters);
}

}  // namespace wcodec
