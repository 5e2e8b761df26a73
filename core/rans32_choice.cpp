// SPDX-License-Identifier: Apache-2.0
//
// First the split, by what one table for all units would cost. Then classes: rows and columns are
// sorted by the mean logarithm of their magnitudes, which is what differs in trained weights, and
// the table of a unit is the sum of both classes.
#include "rans32_choice.hpp"

#include <algorithm>
#include <cstring>

#include "bytes.hpp"
#include "log2.hpp"
#include "spatial.hpp"

namespace wcodec {
namespace {

constexpr uint32_t N_TOPS = 1 << 16;
constexpr uint32_t RUN_BITS = 8 * RUN_BYTES;
constexpr uint32_t MAX_GAP = 6;  // codes that do not occur, and cost less than a run of their own
constexpr uint32_t MIN_CLASSED = 8;  // rows and columns of a block with classes

// A symbol of its own takes one slot of TOKEN_SCALE from all others, which costs n_units *
// log2(4096 / 4095) = n_units / 2839 bits, and an entry of the table. As an escape each occurrence
// costs its entry of the list.
constexpr uint32_t SLOT_COST_DIVISOR = 2839;
constexpr uint32_t ENTRY_COST_BITS = 3;

constexpr int32_t OCTAVE = 256;               // logarithms are in 2^-8
constexpr int32_t MAX_DISTANCE = 6 * OCTAVE;  // of a magnitude from the mean: zeros, outliers
constexpr uint32_t N_CLASSES = MAX_RANS32_CLASS + 1;

// The tops that occur.
struct Top {
    uint32_t top;
    uint32_t count;
};

struct Scratch {
    uint16_t* tops;      // of the units
    uint32_t* counts;    // by top, or by code
    Top* found;          // tops that occur
    uint8_t* symbol_of;  // by code
    int32_t* magnitude;  // by code, in 2^-8 octaves
    int64_t* row_sum;
    int64_t* col_sum;

    Scratch(uint8_t* memory, uint64_t n, uint32_t rows) {
        tops = reinterpret_cast<uint16_t*>(memory);
        counts = reinterpret_cast<uint32_t*>(memory + align_up(2 * n, 64));
        found = reinterpret_cast<Top*>(counts + N_TOPS);
        symbol_of = reinterpret_cast<uint8_t*>(found + N_TOPS);
        magnitude = reinterpret_cast<int32_t*>(symbol_of + N_TOPS);
        row_sum = reinterpret_cast<int64_t*>(magnitude + N_TOPS);
        col_sum = row_sum + rows;
    }
};

template <typename Unit>
uint64_t read_tops(const uint8_t* units, uint64_t n, uint16_t* tops) {
    constexpr uint32_t shift = sizeof(Unit) == 1 ? 0 : 8 * sizeof(Unit) - 16;
    uint64_t any = 0;
    for (uint64_t i = 0; i < n; ++i) {
        const Unit unit = read_as<Unit>(units + i * sizeof(Unit));
        any |= unit;
        tops[i] = static_cast<uint16_t>(unit >> shift);
    }
    return any;
}

// The smallest count of which no more than `most` codes have as many.
uint32_t least_count(const uint32_t* counts, uint32_t n_codes, uint32_t most) {
    uint32_t low = 1, high = UINT32_MAX;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const auto n = std::count_if(counts, counts + n_codes,
                                     [&](uint32_t count) { return count >= middle; });
        if (n <= most)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Which of the codes that occur are symbols. counts is by code; their sum is n_units.
void choose_alphabet(const uint32_t* counts, uint32_t n_codes, uint64_t n_units,
                     uint32_t escape_bits, Alphabet& alphabet) {
    const uint64_t slot_cost = n_units / SLOT_COST_DIVISOR + ENTRY_COST_BITS;
    auto least = static_cast<uint32_t>(slot_cost / escape_bits + 1);
    const auto n_wanted =
        std::count_if(counts, counts + n_codes, [&](uint32_t count) { return count >= least; });
    if (n_wanted > MAX_ALPHABET) least = least_count(counts, n_codes, MAX_ALPHABET);
    uint16_t kept[MAX_ALPHABET];
    uint32_t n_kept = 0;
    uint32_t n_rare = 0;
    for (uint32_t code = 0; code < n_codes; ++code) {
        if (counts[code] >= least)
            kept[n_kept++] = static_cast<uint16_t>(code);
        else
            n_rare += counts[code] > 0;
    }
    // A symbol far from others takes a run of its own, too.
    const auto near = [&](uint32_t i) {
        return (i > 0 && kept[i] <= kept[i - 1] + MAX_GAP + 1) ||
               (i + 1 < n_kept && kept[i + 1] <= kept[i] + MAX_GAP + 1);
    };
    uint16_t worth[MAX_ALPHABET];
    uint32_t n_worth = 0;
    for (uint32_t i = 0; i < n_kept; ++i)
        if (near(i) || counts[kept[i]] * uint64_t{escape_bits} >= slot_cost + RUN_BITS)
            worth[n_worth++] = kept[i];
    alphabet.escape = n_rare > 0 || n_worth < n_kept;
    if (n_worth + alphabet.escape > MAX_ALPHABET) {  // one of the rarest makes room
        uint16_t* rarest = std::min_element(
            worth, worth + n_worth, [&](uint16_t a, uint16_t b) { return counts[a] < counts[b]; });
        std::copy(rarest + 1, worth + n_worth, rarest);
        --n_worth;
    }
    uint32_t room = MAX_ALPHABET - alphabet.escape - n_worth;  // for codes that fill gaps
    alphabet.n_symbols = 0;
    for (uint32_t i = 0; i < n_worth; ++i) {
        const uint32_t gap = i > 0 ? worth[i] - worth[i - 1] - 1u : 0;
        if (gap <= MAX_GAP && gap <= room) {
            room -= gap;
            for (uint32_t code = worth[i] - gap; code < worth[i]; ++code)
                alphabet.code[alphabet.n_symbols++] = static_cast<uint16_t>(code);
        }
        alphabet.code[alphabet.n_symbols++] = worth[i];
    }
    if (alphabet.escape) alphabet.code[alphabet.n_symbols++] = 0;
}

// The counts of the symbols, the escape's last; returns the number of escapes.
uint64_t count_symbols(const Alphabet& alphabet, const uint32_t* counts, uint64_t n_units,
                       uint32_t* symbol_counts) {
    uint64_t left = n_units;
    for (uint32_t s = 0; s < alphabet.n_symbols - alphabet.escape; ++s) {
        symbol_counts[s] = counts[alphabet.code[s]];
        left -= symbol_counts[s];
    }
    if (alphabet.escape) symbol_counts[alphabet.n_symbols - 1] = static_cast<uint32_t>(left);
    return left;
}

// The cheapest split and alphabet, with one table.
void choose_split(const Scratch& scratch, uint32_t n_found, uint64_t any, uint64_t n, uint32_t w,
                  uint32_t split_set, Rans32Choice& choice) {
    choice.cost = UINT64_MAX;
    choice.n_tables = 1;
    const uint32_t n_zero = static_cast<uint32_t>(__builtin_ctzll(any));
    for (uint32_t bit = 0; bit < 32; ++bit) {
        if (!(split_set >> bit & 1)) continue;
        UnitSplit split{static_cast<uint8_t>(w), static_cast<uint8_t>(bit / 16),
                        static_cast<uint8_t>(bit % 16), 0};
        split.zero_bits = static_cast<uint8_t>(std::min(n_zero, split.code_shift()));
        const uint32_t n_codes = 1u << split.code_bits();
        std::memset(scratch.counts, 0, n_codes * sizeof(uint32_t));
        for (uint32_t i = 0; i < n_found; ++i)
            scratch.counts[split.code_of(scratch.found[i].top)] += scratch.found[i].count;
        Alphabet alphabet;
        const uint32_t escape_bits = 8 * escape_bytes(w);
        choose_alphabet(scratch.counts, n_codes, n, escape_bits, alphabet);
        uint32_t symbol_counts[MAX_ALPHABET];
        const uint64_t n_escapes = count_symbols(alphabet, scratch.counts, n, symbol_counts);
        LevelTable table;
        uint64_t cost = build_level_table(symbol_counts, alphabet.n_symbols, table);
        cost += (n * split.raw_bits() + n_escapes * escape_bits) * LEVEL_COST_UNIT;
        cost += uint64_t{count_runs(alphabet)} * RUN_BITS * LEVEL_COST_UNIT;
        if (cost >= choice.cost) continue;
        choice.cost = cost;
        choice.split = split;
        choice.alphabet = alphabet;
        choice.tables[0] = table;
    }
}

// Logarithms of the magnitudes of codes: of floats the exponent and the bits after it, of integers
// that of the distance from the most frequent code.
void find_magnitudes(const Rans32Choice& choice, const Rans32Options& options,
                     const uint32_t* counts, uint64_t n, int32_t* magnitude) {
    const uint32_t code_bits = choice.split.code_bits();
    const uint32_t n_codes = 1u << code_bits;
    const uint32_t without_sign = code_bits - !choice.split.sign_raw;
    const auto* mode = std::max_element(counts, counts + n_codes);
    int64_t sum = 0;
    for (uint32_t code = 0; code < n_codes; ++code) {
        if (options.exponent_bits > 0) {
            const uint32_t unsigned_code = code & ((1u << without_sign) - 1);
            magnitude[code] = static_cast<int32_t>(
                uint64_t{unsigned_code} * OCTAVE << options.exponent_bits >> without_sign);
        } else {
            const uint32_t distance = (code - static_cast<uint32_t>(mode - counts)) & (n_codes - 1);
            magnitude[code] =
                static_cast<int32_t>(log2_q8(2 * std::min(distance, n_codes - distance) + 1));
        }
        sum += int64_t{magnitude[code]} * counts[code];
    }
    const auto mean = static_cast<int32_t>(sum / static_cast<int64_t>(n));
    for (uint32_t code = 0; code < n_codes; ++code)
        magnitude[code] = std::clamp(magnitude[code] - mean, -MAX_DISTANCE, MAX_DISTANCE);
}

// Classes of n lines by the means of their `per_line` magnitudes, `step` apart; at most n_classes
// of them, the lowest one 0.
void sort_lines(const int64_t* sums, uint32_t n, uint32_t per_line, int32_t step,
                uint32_t n_classes, uint8_t* classes) {
    const int32_t half = static_cast<int32_t>(n_classes) / 2;
    int32_t lowest = static_cast<int32_t>(n_classes);
    for (uint32_t i = 0; i < n; ++i) {
        // The mean of all magnitudes is 0.
        const auto mean = static_cast<int32_t>(sums[i] / per_line);
        const int32_t rounded = (mean + half * step + step / 2) / step;
        const int32_t found = std::clamp(rounded, 0, static_cast<int32_t>(n_classes) - 1);
        classes[i] = static_cast<uint8_t>(found);
        lowest = std::min(lowest, found);
    }
    for (uint32_t i = 0; i < n; ++i) classes[i] = static_cast<uint8_t>(classes[i] - lowest);
}

// Tables for classes, and what they cost: symbols, tables and classes.
struct Classing {
    bool rows;
    bool cols;
    int32_t step;
    uint32_t n_tables;
    LevelTable tables[MAX_RANS32_TABLES];
    uint64_t cost;
};

void build_classing(const Scratch& scratch, uint32_t rows, uint32_t cols, uint32_t n_symbols,
                    const uint8_t* symbols, Classing& classing, uint8_t* row_class,
                    uint8_t* col_class) {
    const uint32_t n_classes = classing.rows && classing.cols ? N_CLASSES / 2 : N_CLASSES;
    std::memset(row_class, 0, rows);
    std::memset(col_class, 0, cols);
    if (classing.rows) sort_lines(scratch.row_sum, rows, cols, classing.step, n_classes, row_class);
    if (classing.cols) sort_lines(scratch.col_sum, cols, rows, classing.step, n_classes, col_class);
    const uint32_t highest = *std::max_element(row_class, row_class + rows) +
                             *std::max_element(col_class, col_class + cols);
    classing.n_tables = std::min(highest + 1, MAX_RANS32_TABLES);
    uint32_t counts[2 * N_CLASSES][MAX_ALPHABET] = {};
    for (uint32_t r = 0; r < rows; ++r, symbols += cols)
        for (uint32_t c = 0; c < cols; ++c) ++counts[row_class[r] + col_class[c]][symbols[c]];
    classing.cost = 0;
    for (uint32_t k = 0; k < classing.n_tables; ++k)
        classing.cost += build_level_table(counts[k], n_symbols, classing.tables[k]);
    if (classing.rows) classing.cost += best_class_coding(row_class, rows).bits * LEVEL_COST_UNIT;
    if (classing.cols) classing.cost += best_class_coding(col_class, cols).bits * LEVEL_COST_UNIT;
}

// Classes that pay, if there are any.
void choose_classes(const Scratch& scratch, uint32_t rows, uint32_t cols, uint64_t one_table_cost,
                    const uint8_t* symbols, Rans32Choice& choice, uint8_t* row_class,
                    uint8_t* col_class) {
    std::memset(scratch.row_sum, 0, rows * sizeof(int64_t));
    std::memset(scratch.col_sum, 0, cols * sizeof(int64_t));
    for (uint32_t r = 0; r < rows; ++r) {
        const uint16_t* tops = scratch.tops + uint64_t{r} * cols;
        for (uint32_t c = 0; c < cols; ++c) {
            const int32_t magnitude = scratch.magnitude[choice.split.code_of(tops[c])];
            scratch.row_sum[r] += magnitude;
            scratch.col_sum[c] += magnitude;
        }
    }
    Classing best{false, false, 0, 1, {}, one_table_cost};
    const auto try_classing = [&](bool by_row, bool by_col, int32_t step) {
        Classing tried{by_row, by_col, step, 0, {}, 0};
        build_classing(scratch, rows, cols, choice.alphabet.n_symbols, symbols, tried, row_class,
                       col_class);
        if (tried.cost < best.cost) best = tried;
    };
    try_classing(true, false, OCTAVE / 2);
    try_classing(false, true, OCTAVE / 2);
    try_classing(true, true, OCTAVE / 2);
    const bool by_row = best.rows, by_col = best.cols;
    if (by_row || by_col) {
        try_classing(by_row, by_col, OCTAVE / 4);
        try_classing(by_row, by_col, OCTAVE);
        choice.cost = choice.cost - one_table_cost + best.cost;
        choice.row_classes = by_row;
        choice.col_classes = by_col;
        build_classing(scratch, rows, cols, choice.alphabet.n_symbols, symbols, best, row_class,
                       col_class);
        choice.n_tables = best.n_tables;
        std::copy(best.tables, best.tables + best.n_tables, choice.tables);
    } else {
        std::memset(row_class, 0, rows);
        std::memset(col_class, 0, cols);
    }
}

}  // namespace

size_t rans32_choice_scratch_bytes(uint64_t max_units) {
    // There are sums only with MIN_CLASSED rows and columns or more: an eighth of the units and 8.
    return align_up(2 * max_units, 64) +
           N_TOPS * (2 * sizeof(uint32_t) + sizeof(Top) + sizeof(uint8_t)) +
           align_up(max_units + 8 * (MIN_CLASSED + 1), 64);
}

void choose_rans32(const uint8_t* units, uint32_t rows, uint32_t cols, uint32_t w,
                   const Rans32Options& options, uint8_t* memory, Rans32Choice& choice,
                   uint8_t* row_class, uint8_t* col_class, uint8_t* symbols) {
    const uint64_t n = uint64_t{rows} * cols;
    const Scratch scratch(memory, n, rows);
    const auto read = w == 1   ? read_tops<uint8_t>
                      : w == 2 ? read_tops<uint16_t>
                      : w == 4 ? read_tops<uint32_t>
                               : read_tops<uint64_t>;
    const uint64_t any = read(units, n, scratch.tops);
    const uint32_t n_tops = w == 1 ? 1u << 8 : N_TOPS;
    std::memset(scratch.counts, 0, n_tops * sizeof(uint32_t));
    for (uint64_t i = 0; i < n; ++i) ++scratch.counts[scratch.tops[i]];
    uint32_t n_found = 0;
    for (uint32_t top = 0; top < n_tops; ++top)
        if (scratch.counts[top] > 0) scratch.found[n_found++] = {top, scratch.counts[top]};

    choose_split(scratch, n_found, any, n, w, options.split_set, choice);
    const uint32_t n_codes = 1u << choice.split.code_bits();
    const Alphabet& alphabet = choice.alphabet;
    std::memset(scratch.symbol_of, static_cast<int>(alphabet.n_symbols - 1), n_codes);
    for (uint32_t s = 0; s < alphabet.n_symbols - alphabet.escape; ++s)
        scratch.symbol_of[alphabet.code[s]] = static_cast<uint8_t>(s);
    for (uint64_t i = 0; i < n; ++i)
        symbols[i] = scratch.symbol_of[choice.split.code_of(scratch.tops[i])];

    choice.row_classes = choice.col_classes = false;
    std::memset(row_class, 0, rows);
    std::memset(col_class, 0, cols);
    if (!options.classes || rows < MIN_CLASSED || cols < MIN_CLASSED) return;
    std::memset(scratch.counts, 0, n_codes * sizeof(uint32_t));
    for (uint32_t i = 0; i < n_found; ++i)
        scratch.counts[choice.split.code_of(scratch.found[i].top)] += scratch.found[i].count;
    find_magnitudes(choice, options, scratch.counts, n, scratch.magnitude);
    uint32_t symbol_counts[MAX_ALPHABET];
    count_symbols(alphabet, scratch.counts, n, symbol_counts);
    LevelTable table;
    const uint64_t one_table_cost = build_level_table(symbol_counts, alphabet.n_symbols, table);
    choose_classes(scratch, rows, cols, one_table_cost, symbols, choice, row_class, col_class);
}

ClassCoding best_class_coding(const uint8_t* classes, uint32_t n) {
    uint32_t counts[N_CLASSES] = {};
    for (uint32_t i = 0; i < n; ++i) ++counts[classes[i]];
    ClassCoding best{0, 0, UINT64_MAX};
    for (uint32_t base = 0; base < N_CLASSES; ++base) {
        uint32_t distances[256] = {};
        for (uint32_t c = 0; c < N_CLASSES; ++c)
            distances[zigzag(static_cast<int32_t>(c) - static_cast<int32_t>(base))] += counts[c];
        uint64_t bits;
        const uint32_t parameter = best_small_parameter(distances, bits);
        if (bits + CLASS_HEAD_BITS < best.bits) best = {base, parameter, bits + CLASS_HEAD_BITS};
    }
    return best;
}

}  // namespace wcodec
