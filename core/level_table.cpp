// SPDX-License-Identifier: Apache-2.0
#include "level_table.hpp"

#include <algorithm>
#include <cstring>

#include "log2.hpp"
#include "spatial.hpp"

namespace wcodec {
namespace {

constexpr uint32_t PRECISION_BITS = 2;
constexpr uint32_t PARAMETER_BITS = 3;

uint32_t weight_of(uint32_t level, uint32_t precision) {  // at most 470 << 12
    const uint32_t step = (level - 1) & ((1u << precision) - 1);
    return LEVEL_WEIGHTS[step << (MAX_LEVEL_PRECISION - precision)] << ((level - 1) >> precision);
}

// The level of a share of 2^log2_share / TOKEN_SCALE, log2_share in 2^-8.
uint8_t nearest_level(int32_t log2_share, uint32_t precision) {
    const int32_t level = ((log2_share * (1 << precision) + 128) >> 8) + 1;
    return static_cast<uint8_t>(
        std::clamp<int32_t>(level, 1, static_cast<int32_t>(max_level(precision))));
}

// Costs the counts with the levels that are set, and finds the parameter.
uint64_t cost_of_levels(const uint32_t* counts, uint32_t n_symbols, LevelTable& table) {
    find_frequencies(table, n_symbols);
    uint64_t cost = 0;
    uint32_t differences[256] = {};
    uint32_t largest = 0;
    uint32_t before = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        if (counts[s] > 0)
            cost += counts[s] * uint64_t{TOKEN_SCALE_BITS * LEVEL_COST_UNIT -
                                         log2_q8(table.frequencies.frequency[s])};
        const uint32_t difference = zigzag(static_cast<int32_t>(table.level[s] - before));
        ++differences[difference];
        largest = std::max(largest, difference);
        before = table.level[s];
    }
    uint64_t bits;
    table.parameter = best_small_parameter(differences, largest, bits);
    return cost + (bits + PRECISION_BITS + PARAMETER_BITS) * LEVEL_COST_UNIT;
}

}  // namespace

void put_small_number(BitWriter& writer, uint32_t number, uint32_t k) {
    const uint32_t quotient = number >> k;
    if (quotient < SMALL_QUOTIENTS) {
        writer.put((1u << quotient) - 1, quotient + 1);
        writer.put(number & ((1u << k) - 1), k);
    } else {
        writer.put((1u << SMALL_QUOTIENTS) - 1, SMALL_QUOTIENTS);
        writer.put(number, 8);
    }
}

uint32_t take_small_number(BitReader& reader, uint32_t k) {
    uint32_t quotient = 0;
    while (quotient < SMALL_QUOTIENTS && reader.take(1)) ++quotient;
    if (quotient == SMALL_QUOTIENTS) return static_cast<uint32_t>(reader.take(8));
    return quotient << k | static_cast<uint32_t>(reader.take(k));
}

uint32_t best_small_parameter(const uint32_t* counts, uint32_t largest, uint64_t& bits) {
    uint8_t occurring[256];
    uint32_t n = 0;
    for (uint32_t number = 0; number <= largest; ++number)
        if (counts[number] > 0) occurring[n++] = static_cast<uint8_t>(number);
    uint32_t best = 0;
    bits = UINT64_MAX;
    for (uint32_t k = 0; k <= MAX_SMALL_PARAMETER; ++k) {
        uint64_t size = 0;
        for (uint32_t i = 0; i < n; ++i)
            size += uint64_t{counts[occurring[i]]} * small_number_bits(occurring[i], k);
        if (size >= bits) continue;
        bits = size;
        best = k;
    }
    return best;
}

void find_frequencies(LevelTable& table, uint32_t n_symbols) {
    uint64_t total = 0;
    for (uint32_t s = 0; s < n_symbols; ++s)
        if (table.level[s] > 0) total += weight_of(table.level[s], table.precision);
    uint16_t* frequency = table.frequencies.frequency;
    std::memset(&table.frequencies, 0, sizeof table.frequencies);
    uint32_t used = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        if (table.level[s] == 0) continue;
        const uint64_t weight = weight_of(table.level[s], table.precision);
        const uint64_t share = (weight * TOKEN_SCALE + total / 2) / total;
        frequency[s] = static_cast<uint16_t>(std::max<uint64_t>(share, 1));
        used += frequency[s];
    }
    balance_token_table(table.frequencies, used);
}

uint64_t build_level_table(const uint32_t* counts, uint32_t n_symbols, LevelTable& table) {
    uint64_t total = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) total += counts[s];
    std::memset(&table, 0, sizeof table);
    if (total == 0) {
        table.level[0] = 1;
        return cost_of_levels(counts, n_symbols, table);
    }
    const int32_t log2_total = static_cast<int32_t>(log2_q8(static_cast<uint32_t>(total)));
    int32_t log2_share[256];
    for (uint32_t s = 0; s < n_symbols; ++s)
        if (counts[s] > 0)
            log2_share[s] = static_cast<int32_t>(log2_q8(counts[s])) +
                            static_cast<int32_t>(TOKEN_SCALE_BITS) * 256 - log2_total;
    uint64_t best_cost = UINT64_MAX;
    LevelTable tried{};
    for (uint32_t precision = 0; precision <= MAX_LEVEL_PRECISION; ++precision) {
        tried.precision = precision;
        for (uint32_t s = 0; s < n_symbols; ++s)
            if (counts[s] > 0) tried.level[s] = nearest_level(log2_share[s], precision);
        const uint64_t cost = cost_of_levels(counts, n_symbols, tried);
        if (cost >= best_cost) continue;
        best_cost = cost;
        table = tried;
    }
    return best_cost;
}

uint64_t least_cost(const uint32_t* counts, uint32_t n_symbols) {
    // No frequencies are better than the shares themselves (Gibbs), and no number is shorter than
    // a bit.
    uint64_t total = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) total += counts[s];
    uint64_t cost = 0;
    if (total > 0) {
        const uint32_t log2_total = log2_q12(static_cast<uint32_t>(total));
        for (uint32_t s = 0; s < n_symbols; ++s) {
            if (counts[s] == 0) continue;
            const uint32_t log2_count = log2_q12(counts[s]) + LOG2_Q12_ERROR;
            if (log2_count < log2_total) cost += uint64_t{counts[s]} * (log2_total - log2_count);
        }
    }
    constexpr uint64_t UNITS = (1 << 12) / LEVEL_COST_UNIT;
    return cost / UNITS + (n_symbols + PRECISION_BITS + PARAMETER_BITS) * LEVEL_COST_UNIT;
}

void write_level_table(const LevelTable& table, uint32_t n_symbols, BitWriter& writer) {
    writer.put(table.precision, PRECISION_BITS);
    writer.put(table.parameter, PARAMETER_BITS);
    uint32_t before = 0;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        put_small_number(writer, zigzag(static_cast<int32_t>(table.level[s] - before)),
                         table.parameter);
        before = table.level[s];
    }
}

bool read_level_table(BitReader& reader, uint64_t end, uint32_t n_symbols, LevelTable& table) {
    table.precision = static_cast<uint32_t>(reader.take(PRECISION_BITS));
    table.parameter = static_cast<uint32_t>(reader.take(PARAMETER_BITS));
    int32_t level = 0;
    bool any = false;
    for (uint32_t s = 0; s < n_symbols; ++s) {
        if (reader.bits_taken() > end) return false;
        // Of a hostile table the quotient may be large: 15 << 7 | 127 is within int32_t.
        level += unzigzag(take_small_number(reader, table.parameter));
        if (level < 0 || level > static_cast<int32_t>(max_level(table.precision))) return false;
        table.level[s] = static_cast<uint8_t>(level);
        any |= level > 0;
    }
    if (any) find_frequencies(table, n_symbols);
    return any && reader.bits_taken() <= end;
}

}  // namespace wcodec
