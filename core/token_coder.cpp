// SPDX-License-Identifier: Apache-2.0
//
// The reference of the coder of tokens. docs/rans.md says why such a coder works; here a state is
// in [2^16, 2^32), so a symbol moves at most one word of 16 bits: from x >= f * 2^20 one shift
// leaves less than 2^16 <= f * 2^20, and from x >= f >= 1 one word leads to 2^16 or more.
#include "token_coder.hpp"

#include <algorithm>
#include <cstring>

#include "bytes.hpp"
#include "kernels.hpp"

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
    balance_token_table(table, used);
}

void balance_token_table(TokenTable& table, uint32_t used) {
    // In two passes, of which compilers make vectors.
    const auto largest = [&table] {
        uint16_t most = 0;
        for (uint16_t frequency : table.frequency) most = std::max(most, frequency);
        return std::find(table.frequency, table.frequency + 256, most);
    };
    // What is added makes the largest larger, so all of it goes there.
    if (used < TOKEN_SCALE) {
        uint16_t* const all = largest();
        *all = static_cast<uint16_t>(*all + TOKEN_SCALE - used);
    }
    for (; used > TOKEN_SCALE; --used) --*largest();
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
                        TokenTable& table) {
    if (end - from < 1) return Status::BAD_PAYLOAD_BYTES;
    const uint32_t n = uint32_t{*from++} + 1;
    if (static_cast<size_t>(end - from) < size_t{3} * n) return Status::BAD_PAYLOAD_BYTES;
    std::memset(&table, 0, sizeof table);
    uint32_t used = 0;
    int32_t last = -1;
    for (uint32_t i = 0; i < n; ++i, from += 3) {
        const uint32_t symbol = from[0];
        const uint32_t frequency = read_as<uint16_t>(from + 1);
        if (static_cast<int32_t>(symbol) <= last || symbol > max_symbol || frequency == 0 ||
            frequency > TOKEN_SCALE - used)
            return Status::BAD_FREQUENCY_TABLE;
        last = static_cast<int32_t>(symbol);
        table.frequency[symbol] = static_cast<uint16_t>(frequency);
        used += frequency;
    }
    return used == TOKEN_SCALE ? Status::OK : Status::BAD_FREQUENCY_TABLE;
}

void build_token_slots(const TokenTable& table, TokenSlots& slots) {
    uint32_t* to = slots.entry;
    for (uint32_t symbol = 0; symbol < 256; ++symbol) {
        const uint32_t frequency = table.frequency[symbol];
        for (uint32_t rest = 0; rest < frequency; ++rest)
            *to++ = symbol | rest << 8 | (frequency - 1) << 20;
    }
}

namespace {

void build_encodings(const TokenTable& table, TokenEncodings& encodings) {
    uint32_t sum = 0;
    for (uint32_t s = 0; s < 256; ++s) {
        const uint32_t f = table.frequency[s];
        if (f == 0) continue;
        const uint32_t reciprocal = f == 1 ? UINT32_MAX : uint32_t((uint64_t{1} << 32) / f);
        encodings.symbol[s] = {reciprocal, static_cast<uint16_t>(f), static_cast<uint16_t>(sum)};
        sum += f;
    }
}

// One symbol; returns where what is written begins.
inline uint8_t* encode_token(uint32_t& state, const TokenEncoding& own, uint8_t* to) {
    uint32_t x = state;
    // In arithmetic, not with a branch: whether a state gives a word is hard to predict.
    write_as(to - 2, static_cast<uint16_t>(x));
    const uint32_t gives = x >> (32 - TOKEN_SCALE_BITS) >= own.frequency;
    x >>= 16 * gives;
    // Short by less than x / 2^32 and a rounding: this is x / f, or one less.
    const auto estimate = static_cast<uint32_t>(uint64_t{x} * own.reciprocal >> 32);
    const uint32_t rest = x - estimate * own.frequency;
    const uint32_t more = rest >= own.frequency ? TOKEN_SCALE - own.frequency : 0;
    state = (estimate << TOKEN_SCALE_BITS) + rest + more + own.cumulative;
    return to - 2 * gives;
}

}  // namespace

uint8_t* encode_token_steps_scalar(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                                   size_t n_steps, const TokenEncodings* tables, uint8_t* to) {
    for (size_t i = n_steps * TOKEN_LANES; i-- > 0;)
        to = encode_token(states[i % TOKEN_LANES], tables[ids ? ids[i] : 0].symbol[symbols[i]], to);
    return to;
}

size_t encode_tokens(const uint8_t* symbols, const uint8_t* ids, size_t n, const TokenTable* tables,
                     uint8_t* end) {
    uint32_t states[TOKEN_LANES];
    std::fill(states, states + TOKEN_LANES, TOKEN_STATE_LOWER);
    TokenEncodings encodings[MAX_TOKEN_TABLES];
    const uint32_t n_tables = ids && n > 0 ? *std::max_element(ids, ids + n) + 1u : 1;
    for (uint32_t k = 0; k < n_tables; ++k) build_encodings(tables[k], encodings[k]);
    const size_t n_steps = n / TOKEN_LANES;
    uint8_t* to = end;
    for (size_t i = n; i-- > n_steps * TOKEN_LANES;)
        to = encode_token(states[i % TOKEN_LANES], encodings[ids ? ids[i] : 0].symbol[symbols[i]],
                          to);
    to = kernels().encode_token_steps(states, symbols, ids, n_steps, encodings, to);
    to -= TOKEN_STATES_BYTES;
    std::memcpy(to, states, TOKEN_STATES_BYTES);
    return static_cast<size_t>(end - to);
}

namespace {

// One symbol. Of a hostile stream the words may be used up: a step reads no further than
// READ_SLACK_BYTES behind them.
inline const uint8_t* decode_token(uint32_t& state, const TokenSlots& table, const uint8_t* from,
                                   uint8_t& symbol) {
    const uint32_t entry = table.entry[state & (TOKEN_SCALE - 1)];
    symbol = static_cast<uint8_t>(entry);
    const uint32_t x =
        ((entry >> 20) + 1) * (state >> TOKEN_SCALE_BITS) + (entry >> 8 & (TOKEN_SCALE - 1));
    // In arithmetic, not with a branch: whether a word follows is hard to predict.
    const uint32_t takes = x < TOKEN_STATE_LOWER;
    state = x << 16 * takes | (read_as<uint16_t>(from) & (0 - takes));
    return from + 2 * takes;
}

}  // namespace

const uint8_t* decode_token_steps_scalar(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                         const uint8_t* ids, size_t n_steps,
                                         const TokenSlots* tables, uint8_t* symbols) {
    for (size_t step = 0; step < n_steps && from <= end; ++step, symbols += TOKEN_LANES) {
        for (uint32_t lane = 0; lane < TOKEN_LANES; ++lane)
            from = decode_token(states[lane], tables[ids ? ids[lane] : 0], from, symbols[lane]);
        if (ids) ids += TOKEN_LANES;
    }
    return from;
}

Status check_token_stream(const uint8_t* from, const uint8_t* end) {
    const size_t size = static_cast<size_t>(end - from);
    if (size < TOKEN_STATES_BYTES || size % 2 != 0) return Status::BAD_TOKEN_STREAM;
    for (uint32_t lane = 0; lane < TOKEN_LANES; ++lane)
        if (read_as<uint32_t>(from + 4 * lane) < TOKEN_STATE_LOWER)
            return Status::BAD_STARTING_STATE;
    return Status::OK;
}

Status decode_tokens(const uint8_t* from, const uint8_t* end, const uint8_t* ids, size_t n,
                     const TokenSlots* tables, uint8_t* symbols) {
    const Status status = check_token_stream(from, end);
    if (status != Status::OK) return status;
    uint32_t states[TOKEN_LANES];
    std::memcpy(states, from, TOKEN_STATES_BYTES);
    from += TOKEN_STATES_BYTES;
    const size_t n_steps = n / TOKEN_LANES;
    from = kernels().decode_token_steps(states, from, end, ids, n_steps, tables, symbols);
    if (from > end) return Status::STREAM_NOT_CONSUMED;
    for (size_t i = n_steps * TOKEN_LANES; i < n; ++i)
        from = decode_token(states[i % TOKEN_LANES], tables[ids ? ids[i] : 0], from, symbols[i]);
    if (from != end) return Status::STREAM_NOT_CONSUMED;
    for (uint32_t x : states)
        if (x != TOKEN_STATE_LOWER) return Status::BAD_FINAL_STATE;
    return Status::OK;
}

}  // namespace wcodec
