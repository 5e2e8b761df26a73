// SPDX-License-Identifier: Apache-2.0
//
// Many threads that encode and decode at once from the first call on, all in the one pool, and
// compare: for ThreadSanitizer and valgrind. fuzz/threads.sh builds and runs it.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "batch.hpp"

using namespace wcodec;

namespace {

constexpr uint32_t ROWS = 24, COLS = 200, W = 2, N_BLOCKS = 6, N_THREADS = 3, N_CALLERS = 6;
constexpr size_t MATRIX_BYTES = size_t{N_BLOCKS} * ROWS * COLS * W;

struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
};

// Not initialised, so that valgrind sees what is read before it is written.
std::unique_ptr<uint8_t, Free> allocate(size_t size) {
    return std::unique_ptr<uint8_t, Free>(
        static_cast<uint8_t*>(std::aligned_alloc(64, align_up(size, 64))));
}

// Half floats whose exponents are not alike.
void fill(uint8_t* matrix, uint32_t seed) {
    for (size_t i = 0; i < MATRIX_BYTES; i += W) {
        seed = seed * 1664525 + 1013904223;
        const uint32_t exponent = 14 - static_cast<uint32_t>(__builtin_clz(seed | 1));
        write_as(matrix + i, static_cast<uint16_t>((seed & 0x8000) | exponent % 32 << 10 |
                                                   (seed >> 4 & 0x3FF)));
    }
}

bool round_trip(uint8_t family, uint32_t seed) {
    const auto matrix = allocate(MATRIX_BYTES), decoded = allocate(MATRIX_BYTES);
    fill(matrix.get(), seed);
    std::vector<BlockDescriptor> blocks;
    uint64_t room = READ_SLACK_BYTES;
    for (uint32_t i = 0; i < N_BLOCKS; ++i) {
        blocks.push_back({uint64_t{i} * ROWS * COLS * W, COLS * W, 0, NO_ROW_INDEX, ROWS, COLS});
        room += block_bytes(ROWS * COLS * W);
    }
    std::vector<BlockHeader> headers(N_BLOCKS);
    std::vector<Status> statuses(N_BLOCKS);
    const auto data = allocate(room);
    const size_t scratch_bytes = align_up(encode_scratch_bytes(family, ROWS * COLS, W), 64);
    const auto scratch = allocate(scratch_bytes * N_THREADS);
    Batch batch{matrix.get(),   W,
                blocks.data(),  N_BLOCKS,
                nullptr,        data.get(),
                headers.data(), statuses.data(),
                N_THREADS,      scratch.get(),
                scratch_bytes};
    const uint32_t forms = family == CODING_RANS16   ? 1u << 3
                           : family == CODING_RANS32 ? 1u << 10
                                                     : 0;
    const uint64_t size = encode_blocks(
        batch, {family, forms, 2, true, {SpatialForm(0), 3, 63, 1}, {forms, 5, true}});
    std::memset(data.get() + size, 0, READ_SLACK_BYTES);
    bool right = true;
    uint64_t at = 0;
    for (uint32_t i = 0; i < N_BLOCKS; ++i) {
        right &= statuses[i] == Status::OK;
        blocks[i].data_offset = at;
        at += block_bytes(headers[i].payload_bytes);
    }
    batch.matrix = decoded.get();
    decode_blocks(batch, family);
    for (const Status status : statuses) right &= status == Status::OK;
    return right && std::memcmp(matrix.get(), decoded.get(), MATRIX_BYTES) == 0;
}

}  // namespace

int main() {
    constexpr uint8_t FAMILIES[] = {CODING_RAW, CODING_RANS16, CODING_RANS32, CODING_SPATIAL};
    std::vector<std::thread> callers;
    std::vector<uint8_t> right(N_CALLERS);
    for (uint32_t caller = 0; caller < N_CALLERS; ++caller)
        callers.emplace_back([&right, caller, &FAMILIES] {
            right[caller] = true;
            for (uint32_t i = 0; i < 8; ++i)
                right[caller] &= round_trip(FAMILIES[(caller + i) % 4], caller * 100 + i);
        });
    for (std::thread& caller : callers) caller.join();
    for (const uint8_t one : right)
        if (!one) return std::puts("what was decoded differs"), 1;
    return 0;
}
