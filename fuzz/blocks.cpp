// SPDX-License-Identifier: Apache-2.0
//
// One block of any payload behind a right CRC, decoded by every backend: statuses and units must be
// equal, and the sanitizers see every buffer, which are just as large as the core is promised.
// FUZZ_FAMILY is the family: one program a coding. fuzz/seeds.py writes inputs of this shape.
//
// Input: u8 coding, u8 form, u8 n_streams, u8 log2 of unit_bytes, u16 rows, u16 cols, payload.
#include <cstdlib>
#include <memory>
#include <vector>

#include "block.hpp"

using namespace wcodec;

namespace {

constexpr size_t HEAD_BYTES = 8;
constexpr uint64_t MAX_UNITS = 1 << 15;

struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Free>;

Memory allocate(uint64_t size) {
    return Memory(static_cast<uint8_t*>(std::aligned_alloc(64, align_up(size + 1, 64))));
}

// Exactly `size` bytes, so that one more is an error.
Memory allocate_exactly(uint64_t size) { return Memory(static_cast<uint8_t*>(std::malloc(size))); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size <= HEAD_BYTES) return 0;
    const uint32_t w = 1u << (data[3] & 3);
    const uint32_t rows = 1u + read_as<uint16_t>(data + 4), cols = 1u + read_as<uint16_t>(data + 6);
    const uint64_t n_units = uint64_t(rows) * cols;
    if (n_units > MAX_UNITS) return 0;
    const uint64_t payload_bytes = size - HEAD_BYTES;

    BlockHeader header{0, data[0], data[1], data[2], 0, payload_bytes};
    const uint64_t n_bytes = block_bytes(payload_bytes);
    const Memory block = allocate_exactly(n_bytes + READ_SLACK_BYTES);
    std::memset(block.get(), 0, n_bytes + READ_SLACK_BYTES);
    std::memcpy(block.get() + sizeof header, data + HEAD_BYTES, payload_bytes);
    std::memcpy(block.get(), &header, sizeof header);
    header.crc = kernels().crc32(block.get() + 4, n_bytes - 4, 0);
    std::memcpy(block.get(), &header, sizeof header);

    size_t n_backends;
    const Kernels* const* backends = available_backends(n_backends);
    const Memory scratch = allocate(decode_scratch_bytes(FUZZ_FAMILY, n_units, w));
    Memory first;
    Status first_status = Status::OK;
    for (size_t i = 0; i < n_backends; ++i) {
        use_backend(backends[i]->name);
        Memory units = allocate_exactly(n_units * w);
        std::memset(units.get(), 0xA5, n_units * w);
        const BlockView view{units.get(), uint64_t(cols) * w, rows, cols, w, nullptr};
        const Status status = decode_block(block.get(), header, FUZZ_FAMILY, view, scratch.get());
        if (i == 0) {
            first = std::move(units);
            first_status = status;
        } else if (status != first_status) {
            __builtin_trap();
        } else if (status == Status::OK &&
                   std::memcmp(first.get(), units.get(), n_units * w) != 0) {
            __builtin_trap();
        }
    }
    return 0;
}
