// SPDX-License-Identifier: Apache-2.0
//
// For the encoders of AVX2 and NEON, which look up what they need of a symbol in tables of 64
// bytes, by an index: how a value becomes one, and what the tables hold. Like all that ISA files
// include, the functions are static (core/bytes.hpp says why).
#pragma once

#include <cstdint>

#include "frequency_table.hpp"
#include "kernels.hpp"

namespace wcodec {

// Codes of most tables are close together: then an index is the distance from the first, in steps
// of the map's lowest bit, and `last` stands for all codes outside. Else it is the symbol.
struct Indexing {
    bool by_distance;
    bool has_escape;
    uint32_t first;  // the lowest code
    uint32_t shift;
    uint32_t last;
    uint8_t symbol_of[N_CODES];  // unless by_distance
};

static inline Indexing choose_indexing(const FieldMap& map, const FrequencyTable& table) {
    Indexing indexing;
    indexing.has_escape = table.escape != NO_ESCAPE;
    indexing.shift = static_cast<uint32_t>(__builtin_ctz(map.value_mask >> CODE_SHIFT));
    // Values ascend, but for that of the escape, which is 0 and the last.
    const uint32_t n_values = table.n_symbols - indexing.has_escape;
    indexing.first = table.value[0] >> CODE_SHIFT;
    const uint32_t end = table.value[n_values - 1] >> CODE_SHIFT;
    indexing.last = ((end - indexing.first) >> indexing.shift) + indexing.has_escape;
    indexing.by_distance = indexing.last < MAX_SYMBOLS;
    if (indexing.by_distance) return indexing;
    indexing.last = table.n_symbols - 1;
    __builtin_memset(indexing.symbol_of, static_cast<int>(table.n_symbols - 1), N_CODES);
    for (uint32_t i = 0; i < n_values; ++i)
        indexing.symbol_of[table.value[i] >> CODE_SHIFT] = static_cast<uint8_t>(i);
    return indexing;
}

// By index. x / f is x * inverse >> 16 or one more: for x < 256 f the estimate is short by less
// than x / 65536 and a rounding.
struct IndexTables {
    uint8_t frequency[MAX_SYMBOLS];
    uint8_t cum[MAX_SYMBOLS];
    uint8_t inverse_low[MAX_SYMBOLS];
    uint8_t inverse_high[MAX_SYMBOLS];
    uint8_t escape[MAX_SYMBOLS];  // 255 or 0
};

static inline IndexTables make_index_tables(const FrequencyTable& table, const Indexing& indexing) {
    IndexTables tables;
    const auto put = [&](uint32_t index, uint32_t symbol, uint32_t begin) {
        const uint32_t f = table.frequency[symbol];
        const uint32_t inverse = f == 1 ? 65535 : 65536 / f;
        tables.frequency[index] = static_cast<uint8_t>(f);
        tables.cum[index] = static_cast<uint8_t>(begin);
        tables.inverse_low[index] = static_cast<uint8_t>(inverse);
        tables.inverse_high[index] = static_cast<uint8_t>(inverse >> 8);
        tables.escape[index] = symbol == table.escape ? 255 : 0;
    };
    // Codes without a symbol are escapes. Without an escape symbol the caller's table covers all.
    const uint32_t other = table.n_symbols - 1;
    for (uint32_t index = 0; index < MAX_SYMBOLS; ++index)
        put(index, other, SCALE - table.frequency[other]);
    uint32_t begin = 0;
    for (uint32_t i = 0; i < table.n_symbols; begin += table.frequency[i], ++i) {
        if (i == table.escape) continue;
        const uint32_t distance =
            ((table.value[i] >> CODE_SHIFT) - indexing.first) >> indexing.shift;
        put(indexing.by_distance ? distance : i, i, begin);
    }
    return tables;
}

static inline void put_escape(const FieldMap& map, EncodeStream& stream, uint32_t code) {
    const uint32_t value = code << CODE_SHIFT;
    const uint64_t i = stream.n_escapes++;
    if (map.n_escape_lists == 1) {
        stream.escapes_high[i] = static_cast<uint8_t>(value >> map.escape_shift);
    } else {
        stream.escapes_high[i] = static_cast<uint8_t>(value >> 8);
        stream.escapes_low[i] = static_cast<uint8_t>(value);
    }
}

// Puts indices (bytes) in the place of the values, which are codes shifted to the left, and lists
// the escapes; unless by_distance, which has kernels.
static inline void index_by_symbol(const FieldMap& map, const Indexing& indexing, uint32_t shift,
                                   EncodeStream& stream) {
    uint8_t* indices = reinterpret_cast<uint8_t*>(stream.values);
    for (uint64_t i = 0; i < stream.n_steps * LANES; ++i) {
        const uint32_t code = uint32_t{stream.values[i]} >> shift;
        const uint8_t symbol = indexing.symbol_of[code];
        if (indexing.has_escape && symbol == indexing.last) put_escape(map, stream, code);
        indices[i] = symbol;
    }
}

}  // namespace wcodec
