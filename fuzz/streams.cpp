// SPDX-License-Identifier: Apache-2.0
//
// Streams of tokens from any bytes, with tables that are always right, by every backend: the same
// status, and the same symbols where it is OK. What a stream asks for beyond its end is not read.
//
// Input: u16 number of symbols, u8 tables, u8 seed of tables and ids, then the stream.
#include <cstdlib>
#include <vector>

#include "bytes.hpp"
#include "kernels.hpp"
#include "token_coder.hpp"

using namespace wcodec;

namespace {

constexpr uint32_t MAX_TABLES = 4;

// Frequencies that sum to TOKEN_SCALE: a wide table, a narrow one, or one symbol alone.
TokenTable table_of(uint32_t seed) {
    TokenTable table{};
    const uint32_t n_symbols = seed % 3 == 0 ? 1 : seed % 3 == 1 ? 5 : 128;
    uint32_t left = TOKEN_SCALE;
    for (uint32_t i = 0; i + 1 < n_symbols; ++i) {
        const uint32_t frequency = 1 + seed * (i + 7) % 30;
        table.frequency[i] = static_cast<uint16_t>(frequency);
        left -= frequency;
    }
    table.frequency[n_symbols - 1] = static_cast<uint16_t>(left);
    return table;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4 + TOKEN_STATES_BYTES || size % 2 != 0) return 0;
    const size_t n = 1u + read_as<uint16_t>(data) % 8192;
    const uint32_t n_tables = 1 + data[2] % MAX_TABLES, seed = data[3];
    std::vector<TokenSlots> tables(n_tables);
    for (uint32_t i = 0; i < n_tables; ++i) build_token_slots(table_of(seed + i), tables[i]);
    std::vector<uint8_t> ids(n);
    for (size_t i = 0; i < n; ++i) ids[i] = static_cast<uint8_t>((i * (seed | 1) >> 3) % n_tables);
    const size_t stream_bytes = size - 4;
    std::vector<uint8_t> stream(stream_bytes + READ_SLACK_BYTES);
    std::memcpy(stream.data(), data + 4, stream_bytes);

    size_t n_backends;
    const Kernels* const* backends = available_backends(n_backends);
    std::vector<uint8_t> first;
    Status first_status = Status::OK;
    for (size_t i = 0; i < n_backends; ++i) {
        use_backend(backends[i]->name);
        std::vector<uint8_t> symbols(n);
        const Status status =
            decode_tokens(stream.data(), stream.data() + stream_bytes,
                          n_tables > 1 ? ids.data() : nullptr, n, tables.data(), symbols.data());
        if (i == 0) {
            first = symbols;
            first_status = status;
        } else if (status != first_status || (status == Status::OK && symbols != first)) {
            __builtin_trap();
        }
    }
    return 0;
}
