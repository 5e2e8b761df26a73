// SPDX-License-Identifier: Apache-2.0
//
// The reference of the coder of tokens. docs/rans.md says why such a coder works; here a state is
// in [2^16, 2^32), so a symbol moves at most one word of 16 bits: from x >= f * 2^20 one shift
// leaves less than 2^16 <= f * 2^20, and from x >= f >= 1 one word leads to 2^16 or more.
#include "token_coder.hpp"

#include <algorithm>
#include <cstring>

#include "bytes.hpp"

namespace wcodec {

void build_token_table(const uint32_t* counts, uint32_t n_symbols, TokenTable& table) {
    uint64_t total = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) total += counts[s];
    std::memset(&table, 0, sizeof table);
    uint32_t used = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        if (counts[s] == 0) continue;
        const uint64_t share = (uint64_t{counts[s]} * TOKEN_SCALE + total / 2) / total;
        table.frequency[s] = static_cast<uint16_t>(std::max<uint64_t>(share, 1));
        used += table.frequency[s];
    }
    // What rounding left over or took too much: the most frequent symbol hardly feels it.
    while (used != TOKEN_SCALE) {
        uint16_t& largest = *std::max_element(table.frequency, table.frequency + n_symbols);
        const int step = used < TOKEN_SCALE ? 1 : -1;
        largest = static_cast<uint16_t>(largest + step);
        used += static_cast<uint32_t>(step);
    }
}

uint32_t token_table_bytes(const uint32_t* counts, uint32_t n_symbols) {
    const auto zeros = std::count(counts, counts + n_symbols, 0u);
    return 1 + 3 * (n_symbols - static_cast<uint32_t>(zeros));
}

uint32_t write_token_table(const TokenTable& table, uint8_t* to) {
    uint32_t n = 0;
    uint8_t* at = to + 1;
    for (uint32_t s = 0; s < 256; ++s) {
        if (table.frequency[s] == 0) continue;
        ++n;
        *at++ = static_cast<uint8_t>(s);
        write_as(at, table.frequency[s]);
        at += 2;
    }
    to[0] = static_cast<uint8_t>(n - 1);
    return static_cast<uint32_t>(at - to);
}

Status read_token_table(const uint8_t*& from, const uint8_t* end, uint32_t max_symbol,
                        TokenSlots& slots) {
    if (end - from < 1) return Status::BAD_PAYLOAD_BYTES;
    const uint32_t n = uint32_t{*from++} + 1;
    if (static_cast<size_t>(end - from) < size_t{3} * n) return Status::BAD_PAYLOAD_BYTES;
    uint32_t used = 0;
    int32_t last = -1;
    for (uint32_t i = 0; i < n; ++i, from += 3) {
        const uint32_t symbol = from[0];
        const uint32_t frequency = read_as<uint16_t>(from + 1);
        if (static_cast<int32_t>(symbol) <= last || symbol > max_symbol || frequency == 0 ||
            frequency > TOKEN_SCALE - used)
            return Status::BAD_FREQUENCY_TABLE;
        last = static_cast<int32_t>(symbol);
        for (uint32_t rest = 0; rest < frequency; ++rest)
            slots.entry[used++] = symbol | rest << 8 | (frequency - 1) << 20;
    }
    return used == TOKEN_SCALE ? Status::OK : Status::BAD_FREQUENCY_TABLE;
}

size_t encode_tokens(const uint8_t* symbols, const uint8_t* ids, size_t n, const TokenTable* tables,
                     uint8_t* end) {
    uint32_t states[TOKEN_LANES];
    std::fill(states, states + TOKEN_LANES, TOKEN_STATE_LOWER);
    uint32_t cumulative[8][256];
    uint32_t n_tables = 1;
    for (size_t i = 0; ids && i < n; ++i) n_tables = std::max(n_tables, uint32_t{ids[i]} + 1);
    for (uint32_t k = 0; k < n_tables; ++k) {
        uint32_t sum = 0;
        for (uint32_t s = 0; s < 256; ++s) {
            cumulative[k][s] = sum;
            sum += tables[k].frequency[s];
        }
    }
    uint8_t* at = end;
    for (size_t i = n; i-- > 0;) {
        const uint32_t id = ids ? ids[i] : 0;
        const uint32_t f = tables[id].frequency[symbols[i]];
        uint32_t& x = states[i % TOKEN_LANES];
        if (x >= uint64_t{f} << (32 - TOKEN_SCALE_BITS)) {
            at -= 2;
            write_as(at, static_cast<uint16_t>(x));
            x >>= 16;
        }
        x = (x / f << TOKEN_SCALE_BITS) + x % f + cumulative[id][symbols[i]];
    }
    at -= TOKEN_STATES_BYTES;
    std::memcpy(at, states, TOKEN_STATES_BYTES);
    return static_cast<size_t>(end - at);
}

Status decode_tokens(const uint8_t* from, const uint8_t* end, const uint8_t* ids, size_t n,
                     const TokenSlots* tables, uint8_t* symbols) {
    const size_t size = static_cast<size_t>(end - from);
    if (size < TOKEN_STATES_BYTES || size % 2 != 0) return Status::BAD_TOKEN_STREAM;
    uint32_t states[TOKEN_LANES];
    std::memcpy(states, from, TOKEN_STATES_BYTES);
    from += TOKEN_STATES_BYTES;
    for (uint32_t x : states)
        if (x < TOKEN_STATE_LOWER) return Status::BAD_STARTING_STATE;
    for (size_t i = 0; i < n; ++i) {
        uint32_t& x = states[i % TOKEN_LANES];
        const uint32_t entry = tables[ids ? ids[i] : 0].entry[x & (TOKEN_SCALE - 1)];
        symbols[i] = static_cast<uint8_t>(entry);
        x = ((entry >> 20) + 1) * (x >> TOKEN_SCALE_BITS) + (entry >> 8 & (TOKEN_SCALE - 1));
        if (x >= TOKEN_STATE_LOWER) continue;
        if (from == end) return Status::STREAM_NOT_CONSUMED;
        x = x << 16 | read_as<uint16_t>(from);
        from += 2;
    }
    if (from != end) return Status::STREAM_NOT_CONSUMED;
    for (uint32_t x : states)
        if (x != TOKEN_STATE_LOWER) return Status::BAD_FINAL_STATE;
    return Status::OK;
}

}  // namespace wcodec
