// SPDX-License-Identifier: Apache-2.0
//
// Building, writing and reading frequency tables. Costs are integers (2^-16 bit), so every machine
// builds the same table.
#include "frequency_table.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "bytes.hpp"
#include "log2.hpp"

namespace wcodec {
namespace {

constexpr std::array<uint32_t, SCALE + 1> make_log2_table() {
    std::array<uint32_t, SCALE + 1> table{};
    for (uint32_t n = 1; n <= SCALE; ++n) table[n] = log2_q16(n);
    return table;
}

constexpr std::array<uint32_t, SCALE + 1> LOG2 = make_log2_table();
static_assert(LOG2[256] == 8 << 16 && LOG2[1] == 0 && LOG2[3] == 103872);  // log2(3) = 1.58496

// A symbol of its own takes one of 256 slots from all others, which costs n_units * log2(256 / 255)
// = 0.00565 bit a unit. As an escape each occurrence costs 8 bits a list on top of its share. So a
// symbol pays from count = n_units / (1416 * lists) on.
constexpr uint64_t WORTH_A_SYMBOL = 1416;

// Distribute SCALE over the symbols so that the sum of count * log2(frequency) is greatest: start
// below the share and give the rest away one by one where it gains most (each gain falls as a
// frequency grows, so greedy is exact).
void normalise(const uint64_t* counts, uint32_t n, uint64_t total, uint8_t* frequency) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; ++i) {
        const uint64_t share = counts[i] * SCALE / total;
        frequency[i] = static_cast<uint8_t>(std::clamp<uint64_t>(share, 1, SCALE - 1));
        used += frequency[i];
    }
    while (used < SCALE) {
        uint32_t best = 0;
        uint64_t best_gain = 0;
        for (uint32_t i = 0; i < n; ++i) {
            const uint64_t gain = counts[i] * (LOG2[frequency[i] + 1u] - LOG2[frequency[i]]);
            if (frequency[i] < SCALE - 1 && gain >= best_gain) {
                best = i;
                best_gain = gain;
            }
        }
        ++frequency[best];
        ++used;
    }
    while (used > SCALE) {  // only the raised zeros can bring the sum above SCALE, and then some
                            // frequency is above 1
        uint32_t best = 0;
        uint64_t least_loss = UINT64_MAX;
        for (uint32_t i = 0; i < n; ++i) {
            if (frequency[i] == 1) continue;
            const uint64_t loss = counts[i] * (LOG2[frequency[i]] - LOG2[frequency[i] - 1u]);
            if (loss < least_loss) {
                best = i;
                least_loss = loss;
            }
        }
        --frequency[best];
        --used;
    }
}

}  // namespace

void build_frequency_table(const uint32_t* counts, uint64_t n_units, const FieldMap& map,
                           FrequencyTable& table) {
    uint16_t candidates[N_CODES];  // codes worth a symbol, ascending
    uint32_t n_candidates = 0;
    uint32_t n_rare = 0;
    uint32_t last_rare = 0;
    for (uint32_t code = 0; code < N_CODES; ++code) {
        if (counts[code] == 0) continue;
        if (counts[code] * WORTH_A_SYMBOL * map.n_escape_lists >= n_units) {
            candidates[n_candidates++] = static_cast<uint16_t>(code);
        } else {
            ++n_rare;
            last_rare = code;
        }
    }
    // One rare value takes the slot that an escape symbol would take.
    if (n_rare == 1 && n_candidates < MAX_SYMBOLS - 1) {
        uint32_t at = n_candidates++;
        for (; at > 0 && candidates[at - 1] > last_rare; --at) candidates[at] = candidates[at - 1];
        candidates[at] = static_cast<uint16_t>(last_rare);
        n_rare = 0;
    }
    if (n_candidates >
        MAX_SYMBOLS - 1) {  // the 63 most frequent ones; equal counts: the lower codes
        std::stable_sort(candidates, candidates + n_candidates,
                         [&](uint16_t a, uint16_t b) { return counts[a] > counts[b]; });
        n_rare += n_candidates - (MAX_SYMBOLS - 1);
        n_candidates = MAX_SYMBOLS - 1;
        std::sort(candidates, candidates + n_candidates);
    }

    uint64_t kept[MAX_SYMBOLS];
    uint64_t n_escapes = n_units;
    for (uint32_t i = 0; i < n_candidates; ++i) {
        kept[i] = counts[candidates[i]];
        n_escapes -= kept[i];
        table.value[i] = static_cast<uint16_t>(candidates[i] << CODE_SHIFT);
    }
    table.n_symbols = n_candidates;
    table.escape = NO_ESCAPE;
    if (n_rare > 0 ||
        n_candidates <
            MIN_SYMBOLS) {  // the escape is also the unused second symbol of one-symbol data
        kept[n_candidates] = n_escapes;
        table.value[n_candidates] = 0;
        table.escape = n_candidates;
        ++table.n_symbols;
    }
    normalise(kept, table.n_symbols, n_units, table.frequency);
}

uint64_t coded_cost(const uint32_t* counts, const FieldMap& map, const FrequencyTable& table) {
    uint64_t cost = table_bytes(table.n_symbols) * 8 * COST_UNIT;
    uint64_t n_units = 0;
    for (uint32_t code = 0; code < N_CODES; ++code) n_units += counts[code];
    uint64_t n_escapes = n_units;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        if (i == table.escape) continue;
        const uint64_t count = counts[table.value[i] >> CODE_SHIFT];
        cost += count * (LOG2[SCALE] - LOG2[table.frequency[i]]);
        n_escapes -= count;
    }
    if (table.escape != NO_ESCAPE)
        cost += n_escapes * (LOG2[SCALE] - LOG2[table.frequency[table.escape]] +
                             map.n_escape_lists * 8 * COST_UNIT);
    return cost;
}

void write_frequency_table(const FrequencyTable& table, uint8_t* to) {
    const uint32_t n = table.n_symbols;
    std::memcpy(to, table.frequency, n);
    if (n % 2) to[n] = 0;
    std::memcpy(to + n + n % 2, table.value, 2 * n);
}

Status read_frequency_table(const uint8_t* from, uint32_t n_symbols, uint32_t escape,
                            const FieldMap& map, FrequencyTable& table) {
    if (escape != NO_ESCAPE && escape != n_symbols - 1) return Status::BAD_FREQUENCY_TABLE;
    table.n_symbols = n_symbols;
    table.escape = escape;
    std::memcpy(table.frequency, from, n_symbols);
    if (n_symbols % 2 && from[n_symbols] != 0) return Status::PADDING_NOT_ZERO;
    std::memcpy(table.value, from + n_symbols + n_symbols % 2, 2 * n_symbols);

    uint32_t sum = 0;
    for (uint32_t i = 0; i < n_symbols; ++i) {
        if (table.frequency[i] == 0) return Status::BAD_FREQUENCY_TABLE;
        sum += table.frequency[i];
    }
    if (sum != SCALE) return Status::BAD_FREQUENCY_TABLE;
    const uint32_t n_values = escape == NO_ESCAPE ? n_symbols : n_symbols - 1;
    for (uint32_t i = 0; i < n_values; ++i) {
        if (table.value[i] & ~map.value_mask) return Status::BAD_FREQUENCY_TABLE;
        if (i > 0 && table.value[i] <= table.value[i - 1]) return Status::BAD_FREQUENCY_TABLE;
    }
    if (escape != NO_ESCAPE && table.value[escape] != 0) return Status::BAD_FREQUENCY_TABLE;
    return Status::OK;
}

void build_decode_table(const FrequencyTable& table, DecodeTable& decode) {
    uint32_t slot = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        const uint32_t escape = i == table.escape ? ENTRY_ESCAPE : 0;
        for (uint32_t bias = 0; bias < table.frequency[i]; ++bias)
            decode.entry[slot++] =
                table.frequency[i] | bias << 8 | uint32_t(table.value[i]) << 16 | escape;
    }
}

}  // namespace wcodec
