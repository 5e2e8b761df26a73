// SPDX-License-Identifier: Apache-2.0
#include "rans32_units.hpp"

#include <cstring>

#include "bit_string.hpp"
#include "bytes.hpp"
#include "kernels.hpp"

namespace wcodec {
namespace {

// The raw bits of units that fill 8 bytes, close together.
template <typename Unit>
class RawPicker {
public:
    explicit RawPicker(const UnitSplit& split)
        : n_raw_(split.raw_bits()), n_low_(n_raw_ - split.sign_raw), zero_bits_(split.zero_bits) {
        low_ = ONES * ((uint64_t{1} << n_low_) - 1);
        sign_ = ONES * split.sign_raw;
    }
    uint64_t pick(uint64_t units) const {
        uint64_t raw = (units >> zero_bits_ & low_) | (units >> (BITS - 1) & sign_) << n_low_;
        // Each second one moves to the one before it, then each second pair to its neighbour ...
        uint32_t n = n_raw_;
        for (uint32_t apart = BITS; apart < 64; apart *= 2, n *= 2) {
            const uint64_t first = UINT64_MAX / ((uint64_t{1} << apart) + 1);
            raw = (raw & first) | (raw & ~first) >> (apart - n);
        }
        return raw;
    }

private:
    static constexpr uint32_t BITS = 8 * sizeof(Unit);
    static constexpr uint64_t ONES = UINT64_MAX / static_cast<Unit>(-1);  // the lowest bit of each
    uint32_t n_raw_;
    uint32_t n_low_;
    uint32_t zero_bits_;
    uint64_t low_;
    uint64_t sign_;
};

template <typename Unit>
uint8_t* write_raw(const UnitSplit& split, const uint8_t* units, size_t n, uint8_t* to) {
    constexpr size_t TOGETHER = 8 / sizeof(Unit);
    const uint32_t n_raw = split.raw_bits();
    const RawPicker<Unit> picker(split);
    BitWriter writer(to);
    size_t i = 0;
    if (TOGETHER * n_raw <= MAX_PUT_BITS)
        for (; i + TOGETHER <= n; i += TOGETHER)
            writer.put(picker.pick(read_as<uint64_t>(units + i * sizeof(Unit))), TOGETHER * n_raw);
    for (; i < n; ++i) writer.put(picker.pick(read_as<Unit>(units + i * sizeof(Unit))), n_raw);
    return writer.finish();
}

template <typename Unit, bool sign_raw>
void join(const UnitSplit& split, const Unit* value, const uint8_t* symbols, size_t first, size_t n,
          const uint8_t* raw, uint8_t* units) {
    const uint32_t n_raw = split.raw_bits();
    const uint32_t n_low = n_raw - sign_raw;
    const uint64_t low_mask = (uint64_t{1} << n_low) - 1;
    for (size_t i = first; i < n; ++i) {
        Unit unit = value[symbols[i]];
        if (n_raw > 0) {
            const uint64_t bit = i * uint64_t{n_raw};
            const uint64_t window = read_as<uint64_t>(raw + bit / 8) >> bit % 8;
            unit = static_cast<Unit>(unit | (window & low_mask) << split.zero_bits);
            if (sign_raw)
                unit = static_cast<Unit>(unit | (window >> n_low & 1) << (8 * sizeof(Unit) - 1));
        }
        write_as(units + i * sizeof(Unit), unit);
    }
}

// Calls `visit` with the first code and the length of each run.
template <typename Visit>
void for_each_run(const Alphabet& alphabet, Visit visit) {
    const uint32_t n = alphabet.n_symbols - alphabet.escape;
    for (uint32_t first = 0, s = 1; s <= n; ++s) {
        if (s < n && alphabet.code[s] == alphabet.code[s - 1] + 1) continue;
        visit(alphabet.code[first], s - first);
        first = s;
    }
}

// The first units by the kernel, where the codes are few runs; returns their number.
size_t join_in_runs(const UnitSplit& split, const Alphabet& alphabet, const uint8_t* symbols,
                    size_t n, const uint8_t* raw, uint8_t* units) {
    if (split.unit_bytes == 1 || split.unit_bytes == 8 || split.raw_bits() == 0 ||
        split.raw_bits() > MAX_JOINED_RAW_BITS || count_runs(alphabet) > MAX_JOINED_RUNS)
        return 0;
    WordJoin join{};
    join.unit_bytes = split.unit_bytes;
    join.raw_bits = split.raw_bits();
    join.sign_raw = split.sign_raw;
    join.zero_bits = split.zero_bits;
    join.code_mask = (1u << split.code_bits()) - 1;
    join.code_shift = split.code_shift();
    uint32_t symbol = 0;
    uint32_t gaps = 0;
    for_each_run(alphabet, [&](uint32_t code, uint32_t length) {
        join.first_symbol[join.n_runs] = symbol;
        join.gap[join.n_runs++] = code - symbol - gaps;
        gaps = code - symbol;
        symbol += length;
    });
    return kernels().join_words(join, symbols, n, raw, units);
}

template <typename Unit>
Status join_units_of(const UnitSplit& split, const Alphabet& alphabet, const uint8_t* symbols,
                     size_t n, const uint8_t* raw, const uint8_t* escapes, uint64_t n_escapes,
                     uint8_t* units) {
    Unit value[MAX_ALPHABET] = {};
    for (uint32_t s = 0; s < alphabet.n_symbols; ++s)
        value[s] = static_cast<Unit>(uint64_t{alphabet.code[s]} << split.code_shift());
    const size_t joined = join_in_runs(split, alphabet, symbols, n, raw, units);
    (split.sign_raw ? join<Unit, true> : join<Unit, false>)(split, value, symbols, joined, n, raw,
                                                            units);
    if (!alphabet.escape) return n_escapes == 0 ? Status::OK : Status::BAD_STREAM_SIZE;
    const auto escape = static_cast<uint8_t>(alphabet.n_symbols - 1);
    uint64_t used = 0;
    for (const uint8_t* at = symbols;; ++at) {
        at = static_cast<const uint8_t*>(
            std::memchr(at, escape, n - static_cast<size_t>(at - symbols)));
        if (!at) break;
        if (used == n_escapes) return Status::STREAM_NOT_CONSUMED;
        const uint64_t code =
            sizeof(Unit) == 1 ? escapes[used] : read_as<uint16_t>(escapes + 2 * used);
        ++used;
        if (code >> split.code_bits() != 0) return Status::BAD_CODE;
        uint8_t* unit = units + static_cast<size_t>(at - symbols) * sizeof(Unit);
        const uint64_t others = ~(((uint64_t{1} << split.code_bits()) - 1) << split.code_shift());
        write_as(unit,
                 static_cast<Unit>((read_as<Unit>(unit) & others) | code << split.code_shift()));
    }
    return used == n_escapes ? Status::OK : Status::STREAM_NOT_CONSUMED;
}

}  // namespace

uint32_t count_runs(const Alphabet& alphabet) {
    uint32_t n_runs = 0;
    for_each_run(alphabet, [&](uint16_t, uint32_t) { ++n_runs; });
    return n_runs;
}

void write_runs(const Alphabet& alphabet, uint8_t* to) {
    for_each_run(alphabet, [&](uint16_t first, uint32_t length) {
        write_as(to, first);
        to[2] = static_cast<uint8_t>(length - 1);
        to += RUN_BYTES;
    });
}

bool read_runs(const uint8_t* from, uint32_t n_runs, bool escape, uint32_t code_bits,
               Alphabet& alphabet) {
    const uint32_t most = MAX_ALPHABET - escape;
    uint32_t n = 0;
    for (uint32_t r = 0; r < n_runs; ++r, from += RUN_BYTES) {
        const uint32_t first = read_as<uint16_t>(from);
        const uint32_t length = uint32_t{from[2]} + 1;
        if (n > 0 && first <= alphabet.code[n - 1]) return false;
        if ((first + length - 1) >> code_bits != 0 || length > most - n) return false;
        for (uint32_t i = 0; i < length; ++i) alphabet.code[n++] = static_cast<uint16_t>(first + i);
    }
    if (escape) alphabet.code[n++] = 0;
    alphabet.n_symbols = n;
    alphabet.escape = escape;
    return n > 0;
}

uint8_t* write_raw_bits(const UnitSplit& split, const uint8_t* units, size_t n, uint8_t* to) {
    if (split.raw_bits() == 0) return to;
    switch (split.unit_bytes) {
        case 1:
            return write_raw<uint8_t>(split, units, n, to);
        case 2:
            return write_raw<uint16_t>(split, units, n, to);
        case 4:
            return write_raw<uint32_t>(split, units, n, to);
        default:
            return write_raw<uint64_t>(split, units, n, to);
    }
}

Status join_units(const UnitSplit& split, const Alphabet& alphabet, const uint8_t* symbols,
                  size_t n, const uint8_t* raw, const uint8_t* escapes, uint64_t n_escapes,
                  uint8_t* units) {
    const auto join_of = split.unit_bytes == 1   ? join_units_of<uint8_t>
                         : split.unit_bytes == 2 ? join_units_of<uint16_t>
                         : split.unit_bytes == 4 ? join_units_of<uint32_t>
                                                 : join_units_of<uint64_t>;
    return join_of(split, alphabet, symbols, n, raw, escapes, n_escapes, units);
}

}  // namespace wcodec
