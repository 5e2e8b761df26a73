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

constexpr int32_t OCTAVE = 256;                    // logarithms are in 2^-8
constexpr int32_t MAX_DISTANCE = 6 * OCTAVE;       // of a magnitude from the mean: zeros, outliers
constexpr uint32_t N_FINE = MAX_RANS32_CLASS + 1;  // classes that are counted
constexpr int64_t SPREAD = 3;  // classes reach so many mean distances from the mean
constexpr size_t JOINT_BYTES = sizeof(uint32_t) * N_FINE * N_FINE * MAX_ALPHABET;

// The tops that occur.
struct Top {
    uint32_t top;
    uint32_t count;
};

struct Scratch {
    uint16_t* tops;                           // of the units, less what no split codes
    uint32_t* counts;                         // by top, or by code
    Top* found;                               // tops that occur
    uint8_t* symbol_of;                       // by code, then by top
    uint32_t (*joint)[N_FINE][MAX_ALPHABET];  // by class of the row, of the column, and symbol
    int32_t* row_mean;
    int32_t* col_mean;

    Scratch(uint8_t* memory, uint64_t n, uint32_t rows) {
        tops = reinterpret_cast<uint16_t*>(memory);
        counts = reinterpret_cast<uint32_t*>(memory + align_up(2 * n, 64));
        found = reinterpret_cast<Top*>(counts + N_TOPS);
        symbol_of = reinterpret_cast<uint8_t*>(found + N_TOPS);
        joint = reinterpret_cast<uint32_t (*)[N_FINE][MAX_ALPHABET]>(symbol_of + 2 * N_TOPS);
        row_mean = reinterpret_cast<int32_t*>(joint + N_FINE);
        col_mean = row_mean + rows;
    }
};

// Without their `uncoded` lowest bits; returns the OR of all units.
template <typename Unit>
uint64_t read_tops(const uint8_t* units, uint64_t n, uint32_t uncoded, uint16_t* tops) {
    const uint32_t shift = (sizeof(Unit) == 1 ? 0 : 8 * sizeof(Unit) - 16) + uncoded;
    Unit any = 0;
    for (uint64_t i = 0; i < n; ++i) {
        const Unit unit = read_as<Unit>(units + i * sizeof(Unit));
        any = static_cast<Unit>(any | unit);
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

// How often each symbol occurs, and what all of them cost with one table.
struct SymbolCounts {
    uint32_t counts[MAX_ALPHABET];
    uint64_t cost;
};

// The cheapest split and alphabet, with one table.
SymbolCounts choose_split(const Scratch& scratch, uint32_t n_found, uint64_t any, uint64_t n,
                          uint32_t w, uint32_t split_set, Rans32Choice& choice) {
    SymbolCounts best{};
    choice.cost = UINT64_MAX;
    choice.n_tables = 1;
    const uint32_t n_zero = static_cast<uint32_t>(__builtin_ctzll(any));
    for (uint32_t bit = 0; bit < 32; ++bit) {
        if (!(split_set >> bit & 1)) continue;
        UnitSplit split{static_cast<uint8_t>(w), static_cast<uint8_t>(bit / SIGN_RAW_SPLITS),
                        static_cast<uint8_t>(bit % SIGN_RAW_SPLITS), 0};
        split.zero_bits = static_cast<uint8_t>(std::min(n_zero, split.code_shift()));
        const uint32_t n_codes = 1u << split.code_bits();
        std::memset(scratch.counts, 0, n_codes * sizeof(uint32_t));
        for (uint32_t i = 0; i < n_found; ++i)
            scratch.counts[split.code_of(scratch.found[i].top)] += scratch.found[i].count;
        Alphabet alphabet;
        const uint32_t escape_bits = 8 * escape_bytes(w);
        choose_alphabet(scratch.counts, n_codes, n, escape_bits, alphabet);
        SymbolCounts symbols{};
        const uint64_t n_escapes = count_symbols(alphabet, scratch.counts, n, symbols.counts);
        const uint64_t others = n * split.raw_bits() + n_escapes * escape_bits +
                                uint64_t{count_runs(alphabet)} * RUN_BITS;
        if (others * LEVEL_COST_UNIT + least_cost(symbols.counts, alphabet.n_symbols) >=
            choice.cost)
            continue;
        LevelTable table;
        symbols.cost = build_level_table(symbols.counts, alphabet.n_symbols, table);
        const uint64_t cost = others * LEVEL_COST_UNIT + symbols.cost;
        if (cost >= choice.cost) continue;
        choice.cost = cost;
        choice.split = split;
        choice.alphabet = alphabet;
        choice.tables[0] = table;
        best = symbols;
    }
    return best;
}

// The symbols of units, by their tops.
void find_symbols(const Rans32Choice& choice, const Scratch& scratch, uint64_t n, uint32_t n_tops,
                  uint32_t uncoded, uint8_t* symbols) {
    const Alphabet& alphabet = choice.alphabet;
    const uint32_t n_codes = 1u << choice.split.code_bits();
    uint8_t* const of_code = scratch.symbol_of;
    std::memset(of_code, static_cast<int>(alphabet.n_symbols - 1), n_codes);
    for (uint32_t s = 0; s < alphabet.n_symbols - alphabet.escape; ++s)
        of_code[alphabet.code[s]] = static_cast<uint8_t>(s);
    uint8_t* const of_top = of_code + n_codes;
    for (uint32_t top = 0; top < n_tops; ++top)
        of_top[top] = of_code[choice.split.code_of(top << uncoded)];
    const uint16_t* tops = scratch.tops;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight = 0;
        for (uint32_t k = 0; k < 8; ++k) eight |= uint64_t{of_top[tops[i + k]]} << 8 * k;
        write_as(symbols + i, eight);
    }
    for (; i < n; ++i) symbols[i] = of_top[tops[i]];
}

// Logarithms of the magnitudes of symbols: of floats the exponent and the bits after it, of
// integers that of the distance from the most frequent code. Less their mean; 0 of the escape.
void find_magnitudes(const Rans32Choice& choice, uint32_t exponent_bits, const uint32_t* counts,
                     int32_t* magnitude) {
    const Alphabet& alphabet = choice.alphabet;
    const uint32_t n = alphabet.n_symbols - alphabet.escape;
    const uint32_t code_bits = choice.split.code_bits();
    const uint32_t without_sign = code_bits - !choice.split.sign_raw;
    const uint32_t mode = alphabet.code[std::max_element(counts, counts + n) - counts];
    int64_t sum = 0;
    int64_t total = 1;
    for (uint32_t s = 0; s < n; ++s) {
        const uint64_t code = alphabet.code[s];
        if (exponent_bits > 0) {
            const uint64_t unsigned_code = code & ((1u << without_sign) - 1);
            magnitude[s] =
                static_cast<int32_t>(unsigned_code * OCTAVE << exponent_bits >> without_sign);
        } else {
            const uint32_t distance =
                (static_cast<uint32_t>(code) - mode) & ((1u << code_bits) - 1);
            magnitude[s] = static_cast<int32_t>(
                log2_q8(2 * std::min(distance, (1u << code_bits) - distance) + 1));
        }
        sum += int64_t{magnitude[s]} * counts[s];
        total += counts[s];
    }
    const auto mean = static_cast<int32_t>(sum / total);
    for (uint32_t s = 0; s < n; ++s)
        magnitude[s] = std::clamp(magnitude[s] - mean, -MAX_DISTANCE, MAX_DISTANCE);
    if (alphabet.escape) magnitude[n] = 0;
}

// The mean distance of lines from the mean of all, which is about 0.
int64_t mean_distance(const int32_t* means, uint32_t n) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += std::abs(means[i]);
    return sum / n;
}

// How fine classes become coarse ones: by halving them `halvings` times, and cutting off the ends.
struct Coarsening {
    uint32_t halvings;
    uint32_t n_classes;  // even

    uint8_t operator()(uint32_t fine) const {
        const int32_t middle = static_cast<int32_t>(N_FINE / 2 >> halvings);
        const int32_t half = static_cast<int32_t>(n_classes) / 2;
        const int32_t found = static_cast<int32_t>(fine >> halvings) - middle + half;
        return static_cast<uint8_t>(std::clamp(found, 0, static_cast<int32_t>(n_classes) - 1));
    }
};

// Tables for classes, and what they cost: symbols, tables and classes.
struct Classing {
    bool by_row;
    bool by_col;
    Coarsening coarsening;
    uint32_t n_tables;
    LevelTable tables[MAX_RANS32_TABLES];
    uint64_t cost;
};

// Classes of rows and columns, and how often each symbol occurs with each pair of fine ones.
struct Classes {
    uint32_t rows;
    uint32_t cols;
    uint8_t* row_class;  // fine; what is chosen replaces them
    uint8_t* col_class;
    uint32_t (*counts)[N_FINE][MAX_ALPHABET];
    uint32_t n_symbols;

    // Coarse classes of fine ones, the lowest that is used being 0.
    static uint64_t coarsen(const uint8_t* fine, uint32_t n, const Coarsening& coarsening,
                            uint8_t* coarse) {
        uint32_t used[N_FINE] = {};
        for (uint32_t i = 0; i < n; ++i) ++used[fine[i]];
        uint8_t lowest = N_FINE;
        for (uint32_t f = 0; f < N_FINE; ++f)
            if (used[f] > 0) lowest = std::min(lowest, coarsening(f));
        uint32_t counts[N_FINE] = {};
        for (uint32_t f = 0; f < N_FINE; ++f) {
            coarse[f] = used[f] > 0 ? static_cast<uint8_t>(coarsening(f) - lowest) : 0;
            counts[coarse[f]] += used[f];
        }
        return best_class_coding(counts).bits;
    }

    // False, and no tables, where it surely costs `limit` or more.
    bool build(Classing& classing, uint64_t limit) const {
        uint8_t of_row[N_FINE] = {}, of_col[N_FINE] = {};
        uint64_t bits = 0;
        if (classing.by_row) bits += coarsen(row_class, rows, classing.coarsening, of_row);
        if (classing.by_col) bits += coarsen(col_class, cols, classing.coarsening, of_col);
        uint32_t merged[MAX_RANS32_TABLES][MAX_ALPHABET] = {};
        classing.n_tables = 1;
        for (uint32_t r = 0; r < N_FINE; ++r)
            for (uint32_t c = 0; c < N_FINE; ++c) {
                const uint32_t table = std::min(of_row[r] + of_col[c] + 0u, MAX_RANS32_TABLES - 1);
                classing.n_tables = std::max(classing.n_tables, table + 1);
                for (uint32_t s = 0; s < n_symbols; ++s) merged[table][s] += counts[r][c][s];
            }
        classing.cost = bits * LEVEL_COST_UNIT;
        uint64_t least = classing.cost;
        for (uint32_t k = 0; k < classing.n_tables; ++k) least += least_cost(merged[k], n_symbols);
        if (least >= limit) return false;
        for (uint32_t k = 0; k < classing.n_tables; ++k)
            classing.cost += build_level_table(merged[k], n_symbols, classing.tables[k]);
        return true;
    }

    void apply(const Classing& classing) const {
        uint8_t of_row[N_FINE] = {}, of_col[N_FINE] = {};
        if (classing.by_row) coarsen(row_class, rows, classing.coarsening, of_row);
        if (classing.by_col) coarsen(col_class, cols, classing.coarsening, of_col);
        for (uint32_t r = 0; r < rows; ++r) row_class[r] = of_row[row_class[r]];
        for (uint32_t c = 0; c < cols; ++c) col_class[c] = of_col[col_class[c]];
    }
};

// Fine classes of rows and columns: by the means of their magnitudes, in equal steps.
void sort_lines(const Scratch& scratch, uint32_t rows, uint32_t cols, const uint8_t* symbols,
                const int32_t* magnitude, uint8_t* row_class, uint8_t* col_class) {
    std::memset(scratch.col_mean, 0, cols * sizeof(int32_t));
    for (uint32_t r = 0; r < rows; ++r, symbols += cols) {
        int64_t sum = 0;
        for (uint32_t c = 0; c < cols; ++c) {
            sum += magnitude[symbols[c]];
            scratch.col_mean[c] += magnitude[symbols[c]];  // at most MAX_DISTANCE * 2^20 < 2^31
        }
        scratch.row_mean[r] = static_cast<int32_t>(sum / cols);
    }
    for (uint32_t c = 0; c < cols; ++c) scratch.col_mean[c] /= static_cast<int32_t>(rows);
    const int64_t distance =
        std::max(mean_distance(scratch.row_mean, rows), mean_distance(scratch.col_mean, cols));
    int32_t step = OCTAVE / 4;
    while (step * int32_t{N_FINE / 2} < SPREAD * distance) step *= 2;
    const auto sort = [&](const int32_t* means, uint32_t n, uint8_t* classes) {
        constexpr auto half = static_cast<int32_t>(N_FINE / 2);
        for (uint32_t i = 0; i < n; ++i) {
            const int32_t place = (means[i] + half * step + step / 2) / step;
            classes[i] = static_cast<uint8_t>(std::clamp(place, 0, 2 * half - 1));
        }
    };
    sort(scratch.row_mean, rows, row_class);
    sort(scratch.col_mean, cols, col_class);
}

// Classes that pay, if there are any. `cost` is that of the symbols with one table.
void choose_classes(const Scratch& scratch, uint32_t rows, uint32_t cols, const uint8_t* symbols,
                    uint64_t cost, Rans32Choice& choice, uint8_t* row_class, uint8_t* col_class) {
    const Classes classes{rows,      cols,          row_class,
                          col_class, scratch.joint, choice.alphabet.n_symbols};
    std::memset(scratch.joint, 0, JOINT_BYTES);
    for (uint32_t r = 0; r < rows; ++r, symbols += cols) {
        auto* of_row = scratch.joint[row_class[r]];
        for (uint32_t c = 0; c < cols; ++c) ++of_row[col_class[c]][symbols[c]];
    }
    Classing best{false, false, {}, 1, {}, cost};
    const auto try_classing = [&](bool by_row, bool by_col, uint32_t halvings) {
        Classing tried{by_row, by_col, {halvings, by_row && by_col ? N_FINE / 2 : N_FINE},
                       0,      {},     0};
        if (classes.build(tried, best.cost) && tried.cost < best.cost) best = tried;
    };
    try_classing(true, false, 1);
    try_classing(false, true, 1);
    try_classing(true, true, 1);
    const bool by_row = best.by_row, by_col = best.by_col;
    if (by_row || by_col) {
        try_classing(by_row, by_col, 0);
        try_classing(by_row, by_col, 2);
        choice.n_tables = best.n_tables;
        std::copy(best.tables, best.tables + best.n_tables, choice.tables);
    }
    choice.cost = choice.cost - cost + best.cost;
    choice.row_classes = by_row;
    choice.col_classes = by_col;
    classes.apply(best);
}

}  // namespace

size_t rans32_choice_scratch_bytes(uint64_t max_units) {
    // There are means only with MIN_CLASSED rows and columns or more: an eighth of the units and 8.
    return align_up(2 * max_units, 64) +
           N_TOPS * (sizeof(uint32_t) + sizeof(Top) + 2 * sizeof(uint8_t)) + JOINT_BYTES +
           align_up(max_units / 2 + 4 * (MIN_CLASSED + 1), 64);
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
    const uint32_t split_set = options.split_set;
    // Bits that every split leaves out.
    const uint32_t lows =
        (split_set | split_set >> SIGN_RAW_SPLITS) & ((1u << SIGN_RAW_SPLITS) - 1);
    const auto uncoded = static_cast<uint32_t>(__builtin_ctz(lows));
    const uint64_t any = read(units, n, uncoded, scratch.tops);
    const uint32_t n_tops = (w == 1 ? 1u << 8 : N_TOPS) >> uncoded;
    std::memset(scratch.counts, 0, n_tops * sizeof(uint32_t));
    for (uint64_t i = 0; i < n; ++i) ++scratch.counts[scratch.tops[i]];
    uint32_t n_found = 0;
    for (uint32_t top = 0; top < n_tops; ++top)
        if (scratch.counts[top] > 0)
            scratch.found[n_found++] = {top << uncoded, scratch.counts[top]};

    const SymbolCounts found = choose_split(scratch, n_found, any, n, w, split_set, choice);
    find_symbols(choice, scratch, n, n_tops, uncoded, symbols);

    choice.row_classes = choice.col_classes = false;
    std::memset(row_class, 0, rows);
    std::memset(col_class, 0, cols);
    // No line has more than 2^20 units: sums of magnitudes are of 32 bits.
    if (!options.classes || std::min(rows, cols) < MIN_CLASSED || std::max(rows, cols) > 1 << 20)
        return;
    int32_t magnitude[MAX_ALPHABET];
    find_magnitudes(choice, options.exponent_bits, found.counts, magnitude);
    sort_lines(scratch, rows, cols, symbols, magnitude, row_class, col_class);
    choose_classes(scratch, rows, cols, symbols, found.cost, choice, row_class, col_class);
}

ClassCoding best_class_coding(const uint32_t* counts) {
    ClassCoding best{0, 0, UINT64_MAX};
    for (uint32_t base = 0; base < N_FINE; ++base) {
        uint32_t distances[256] = {};
        for (uint32_t c = 0; c < N_FINE; ++c)
            distances[zigzag(static_cast<int32_t>(c) - static_cast<int32_t>(base))] += counts[c];
        uint64_t bits;
        const uint32_t parameter = best_small_parameter(distances, 2 * N_FINE, bits);
        if (bits + CLASS_HEAD_BITS < best.bits) best = {base, parameter, bits + CLASS_HEAD_BITS};
    }
    return best;
}

}  // namespace wcodec
