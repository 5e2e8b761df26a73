// SPDX-License-Identifier: Apache-2.0
//
// One block of any payload, decoded by every backend: statuses and units must be equal, nothing
// beside the units may be written, and the sanitizers see every buffer, which are just as large as
// the core is promised. FUZZ_FAMILY is the family, one program a coding; that of raw also has
// blocks which the core only checks. fuzz/seeds.py writes inputs of this shape.
//
// Input: u8 coding, u8 form, u8 n_streams, u8 how, u16 rows, u16 cols, payload. how: bits 0 and 1
// the log2 of unit_bytes; bit 2: the rows lie apart; bit 3: they are placed by an index; bit 4: the
// hint to write past the caches; bits 5 to 7: what is wrong around the payload (Damage).
#include <cstdlib>
#include <memory>
#include <vector>

#include "block.hpp"

using namespace wcodec;

namespace {

constexpr size_t HEAD_BYTES = 8;
constexpr uint8_t UNTOUCHED = 0xA5;
enum Damage { CRC = 1, RESERVED, PADDING, DIRECTORY, NOT_ALIGNED };
constexpr uint64_t MAX_UNITS = 1 << 15;

struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Free>;

// Exactly `size` bytes, so that one more is an error.
Memory allocate(uint64_t size) {
    void* memory;
    if (posix_memalign(&memory, STREAMING_ALIGNMENT, size + (size == 0)) != 0) std::abort();
    return Memory(static_cast<uint8_t*>(memory));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size <= HEAD_BYTES) return 0;
    const uint32_t w = 1u << (data[3] & 3);
    const uint32_t rows = 1u + read_as<uint16_t>(data + 4), cols = 1u + read_as<uint16_t>(data + 6);
    const uint64_t n_units = uint64_t(rows) * cols;
    if (n_units > MAX_UNITS) return 0;
    const bool apart = data[3] & 4, by_index = data[3] & 8;
    const uint32_t damage = data[3] >> 5;
    const bool only_checked = data[0] == CODING_LZ || data[0] == CODING_ROW_GROUPS;
    const uint8_t family = FUZZ_FAMILY == CODING_RAW && only_checked ? data[0] : FUZZ_FAMILY;
    const uint64_t payload_bytes = size - HEAD_BYTES;

    BlockHeader header{0, data[0], data[1], data[2], damage == RESERVED, payload_bytes};
    const uint64_t n_bytes = block_bytes(payload_bytes);
    const Memory block = allocate(n_bytes + READ_SLACK_BYTES);
    std::memset(block.get(), 0, n_bytes + READ_SLACK_BYTES);
    std::memcpy(block.get() + sizeof header, data + HEAD_BYTES, payload_bytes);
    if (damage == PADDING) block.get()[n_bytes - 1] |= 1;
    std::memcpy(block.get(), &header, sizeof header);
    header.crc = kernels().crc32(block.get() + 4, n_bytes - 4, 0) + (damage == CRC);
    std::memcpy(block.get(), &header, sizeof header);
    if (damage == DIRECTORY) header.n_streams ^= 1;

    const uint64_t row_bytes = uint64_t(cols) * w;
    const uint64_t offset = damage == NOT_ALIGNED ? 16 : 0;
    const uint64_t row_stride =
        apart ? align_up(row_bytes + 1, STREAMING_ALIGNMENT) + offset : row_bytes;
    const uint64_t area = (rows - 1) * row_stride + row_bytes;
    std::vector<uint32_t> row_index(rows);
    for (uint32_t r = 0; r < rows; ++r) row_index[r] = rows - 1 - r;
    DecodeHints hints{.streaming = (data[3] & 16) != 0};

    size_t n_backends;
    const Kernels* const* backends = available_backends(n_backends);
    const Memory scratch = allocate(decode_scratch_bytes(family, n_units, w));
    Memory first;
    Status first_status = Status::OK;
    for (size_t i = 0; i < n_backends; ++i) {
        use_backend(backends[i]->name);
        Memory units = allocate(offset + area);
        std::memset(units.get(), UNTOUCHED, offset + area);
        uint8_t* base = units.get() + offset;
        const BlockView view{base, row_stride, rows,
                             cols, w,          by_index ? row_index.data() : nullptr};
        const Status status = decode_block(block.get(), header, family, view, scratch.get(), hints);
        for (uint64_t at = row_bytes; at < area; at += row_stride) {
            for (uint64_t gap = 0; gap < row_stride - row_bytes; ++gap)
                if (base[at + gap] != UNTOUCHED) __builtin_trap();
        }
        if (i == 0) {
            first = std::move(units);
            first_status = status;
        } else if (status != first_status) {
            __builtin_trap();
        } else if (status == Status::OK &&
                   std::memcmp(first.get(), units.get(), offset + area) != 0) {
            __builtin_trap();
        }
    }
    return 0;
}
