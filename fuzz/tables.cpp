// SPDX-License-Identifier: Apache-2.0
//
// The frequency tables of both coders, read from any bytes: what is accepted has the sums and
// bounds on which decoding relies, and gives tables of slots that are full. And tables of levels
// that the encoder builds of any counts: none costs less than the bound by which it skips them.
//
// Input: u8 form of rans16, u8 n_symbols, u8 escape, then the bytes of a table.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "frequency_table.hpp"
#include "level_table.hpp"
#include "token_coder.hpp"

using namespace wcodec;

namespace {

void require(bool condition) {
    if (!condition) __builtin_trap();
}

void rans16_table(uint32_t form, uint32_t n_symbols, uint32_t escape, const uint8_t* from,
                  size_t size) {
    if (n_symbols < 2 || n_symbols > MAX_SYMBOLS || size < table_bytes(n_symbols)) return;
    if (escape != NO_ESCAPE && escape != n_symbols - 1) return;
    const std::vector<uint8_t> exact(from, from + table_bytes(n_symbols));
    FrequencyTable table;
    if (read_frequency_table(exact.data(), n_symbols, escape, FIELD_MAPS[form], table) !=
        Status::OK)
        return;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < n_symbols; ++i) {
        require(table.frequency[i] > 0);
        require((table.value[i] & ~FIELD_MAPS[form].value_mask) == 0);
        sum += table.frequency[i];
    }
    require(sum == SCALE);
    DecodeTable decode;
    build_decode_table(table, decode);
    std::vector<uint8_t> written(table_bytes(n_symbols));
    write_frequency_table(table, written.data());
    require(written == exact);
}

void token_table(uint32_t max_symbol, const uint8_t* from, size_t size) {
    const std::vector<uint8_t> exact(from, from + size);
    const uint8_t* at = exact.data();
    TokenTable table;
    if (read_token_table(at, exact.data() + size, max_symbol, table) != Status::OK) return;
    require(at > exact.data() && at <= exact.data() + size);
    TokenSlots slots;
    build_token_slots(table, slots);
}

void level_table(const uint8_t* from, size_t size) {
    uint32_t counts[256];
    const uint32_t n_symbols = static_cast<uint32_t>(std::min<size_t>(size / 2, 256));
    for (uint32_t s = 0; s < n_symbols; ++s)  // their sum is below 2^32
        counts[s] = uint32_t{from[2 * s]} << from[2 * s + 1] % 16;
    LevelTable table;
    const uint64_t cost = build_level_table(counts, n_symbols, table);
    require(least_cost(counts, n_symbols) <= cost);
    const uint16_t* frequency = table.frequencies.frequency;
    require(std::accumulate(frequency, frequency + 256, 0u) == TOKEN_SCALE);
    for (uint32_t s = 0; s < n_symbols; ++s) require(counts[s] == 0 || frequency[s] > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    rans16_table(1 + data[0] % (N_FORMS - 1), data[1], data[2], data + 3, size - 3);
    token_table(data[0] & 1 ? 127 : 255, data + 3, size - 3);
    if (size >= 5) level_table(data + 3, size - 3);
    return 0;
}
