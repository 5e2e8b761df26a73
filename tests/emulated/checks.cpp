// SPDX-License-Identifier: Apache-2.0
//
// Compares a backend's kernels with the scalar ones, with nothing of a system but memory functions
// and puts: so a backend can be tested in an emulator of its processor. CHECKED names the backend.
// tests/parity does the same and more, where the processor can.
#include <stddef.h>
#include <stdint.h>

#include <initializer_list>

#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

extern "C" int puts(const char* text);

using namespace wcodec;

namespace wcodec {
static const Kernels* used = &SCALAR_KERNELS;  // by encode_tokens
const Kernels& kernels() { return *used; }
}  // namespace wcodec

namespace {

const Kernels& REFERENCE = SCALAR_KERNELS;
const Kernels& TESTED = CHECKED;

constexpr size_t MAX_STEPS = 40;
constexpr size_t MAX_UNITS = MAX_STEPS * LANES;
constexpr size_t SLACK = 128;
constexpr size_t MAX_GAP = 5;  // between rows of an output
constexpr size_t MAX_BYTES = 4 * MAX_UNITS + MAX_GAP * MAX_STEPS + 2 * SLACK;
constexpr uint8_t CANARY = 0xA5;

uint32_t n_checks = 0;
uint32_t n_failures = 0;

void put_number(char*& at, uint64_t number) {
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = static_cast<char>('0' + number % 10);
        number /= 10;
    } while (number);
    while (n) *at++ = digits[--n];
}

void say(const char* what, uint64_t a, uint64_t b, uint64_t c) {
    char text[200];
    char* at = text;
    for (; *what; ++what) *at++ = *what;
    for (uint64_t number : {a, b, c}) {
        *at++ = ' ';
        put_number(at, number);
    }
    *at = 0;
    puts(text);
}

struct Case {
    uint64_t a, b, c;
};
Case now;

void expect(bool holds, const char* what) {
    ++n_checks;
    if (holds) return;
    if (++n_failures <= 50) say(what, now.a, now.b, now.c);
}

bool same(const void* a, const void* b, size_t n) { return __builtin_memcmp(a, b, n) == 0; }

bool all_canaries(const uint8_t* from, const uint8_t* end) {
    for (; from < end; ++from)
        if (*from != CANARY) return false;
    return true;
}

uint64_t seed = 1;
uint64_t random() {  // xorshift64*
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545F4914F6CDD1D;
}
uint32_t below(uint32_t n) { return static_cast<uint32_t>((random() >> 32) * n >> 32); }

void fill_random(uint8_t* to, size_t n) {
    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        const uint64_t bytes = random();
        __builtin_memcpy(to + i, &bytes, n - i < sizeof bytes ? n - i : sizeof bytes);
    }
}

// ---- words ----

enum Kind : uint32_t { LIKE_WEIGHTS, UNIFORM, TWO_VALUES, CONSTANT, N_KINDS };

uint32_t geometric() {  // 0 half of the time
    const uint64_t bits = random() | 1ull << 63;
    return static_cast<uint32_t>(__builtin_ctzll(bits)) % 32;
}

void make_words(const FieldMap& map, Kind kind, uint8_t* words, size_t n) {
    const uint32_t w = map.unit_bytes;
    const uint32_t zeros = (1u << map.zero_bits) - 1;
    const uint32_t first = static_cast<uint32_t>(random());
    for (size_t i = 0; i < n; ++i) {
        uint32_t word = static_cast<uint32_t>(random() >> 32);
        if (kind == LIKE_WEIGHTS) {
            // The exponent, or the top bits of a byte, near one value.
            const uint32_t near = (w == 1 ? 8 : 120) - geometric() % (w == 1 ? 9 : 120);
            const uint32_t at = w == 1 ? 3 : w == 2 ? 7 : 23;
            word = (word & ~(255u << at)) | near << at;
        } else if (kind == TWO_VALUES) {
            word = first ^ (word & 1 ? 0x3A2B1C : 0);
        } else if (kind == CONSTANT) {
            word = first;
        }
        word &= ~zeros;
        __builtin_memcpy(words + i * w, &word, w);
    }
}

// ---- checks ----

uint8_t words[MAX_BYTES];
uint8_t outputs[2][MAX_BYTES];

void check_survey(const FieldMap& map, size_t n) {
    const uint32_t code_mask = map.value_mask >> CODE_SHIFT;
    static Survey expected, found;
    REFERENCE.survey_words(words, n, map.unit_bytes, code_mask, expected);
    TESTED.survey_words(words, n, map.unit_bytes, code_mask, found);
    expect(found.any == expected.any, "survey: any");
    static uint32_t merged[2][N_CODES];
    __builtin_memset(merged, 0, sizeof merged);
    for (uint32_t code = 0; code < N_CODES; ++code) {
        merged[0][code & code_mask] += expected.counts[code];
        merged[1][code & code_mask] += found.counts[code];
    }
    expect(same(merged[0], merged[1], sizeof merged[0]), "survey: counts");
}

struct Encoded {
    uint16_t values[MAX_UNITS];
    uint8_t raw[MAX_BYTES];
    uint8_t bytes[MAX_UNITS + 2 * SLACK];
    uint8_t escapes_high[MAX_UNITS + SLACK];
    uint8_t escapes_low[MAX_UNITS + SLACK];
    uint8_t states[STATES_BYTES];
    EncodeStream stream;
};
Encoded encoded[2];

void encode(const Kernels& kernels, Form form, const FrequencyTable& table, size_t n_steps,
            Encoded& to) {
    const FieldMap& map = FIELD_MAPS[form];
    __builtin_memset(to.raw, CANARY, sizeof to.raw);
    __builtin_memset(to.bytes, CANARY, sizeof to.bytes);
    kernels.split_steps(form, words, n_steps, to.values, to.raw);
    to.stream = {to.values,       n_steps,        to.states, to.bytes + SLACK + n_steps * LANES,
                 to.escapes_high, to.escapes_low, 0,         0};
    Fetcher fetcher = fetch_over({words, n_steps, 2 * LINE_BYTES, 4 * LINE_BYTES}, n_steps);
    kernels.encode_stream(map, table, to.stream, fetcher);
    expect(TESTED.name != kernels.name || fetcher.n_lines == 0, "encode: not all is fetched");
    expect(all_canaries(to.raw + n_steps * step_raw_bytes(map), to.raw + sizeof to.raw),
           "split: wrote behind the raw fields");
    const uint8_t* end = to.bytes + SLACK + n_steps * LANES;
    expect(all_canaries(end, to.bytes + sizeof to.bytes), "encode: wrote behind the bytes");
    expect(all_canaries(to.bytes, end - n_steps * LANES - WRITE_SLACK_BYTES),
           "encode: wrote before the bytes");
}

void check_encoding(Form form, const FrequencyTable& table, size_t n_steps) {
    const FieldMap& map = FIELD_MAPS[form];
    encode(REFERENCE, form, table, n_steps, encoded[0]);
    encode(TESTED, form, table, n_steps, encoded[1]);
    const EncodeStream& expected = encoded[0].stream;
    const EncodeStream& found = encoded[1].stream;
    expect(same(encoded[0].raw, encoded[1].raw, n_steps * step_raw_bytes(map)), "split: raw");
    expect(same(encoded[0].states, encoded[1].states, STATES_BYTES), "encode: states");
    expect(found.n_bytes == expected.n_bytes, "encode: number of bytes");
    expect(found.n_escapes == expected.n_escapes, "encode: number of escapes");
    if (found.n_bytes != expected.n_bytes || found.n_escapes != expected.n_escapes) return;
    expect(same(found.bytes_end - found.n_bytes, expected.bytes_end - found.n_bytes, found.n_bytes),
           "encode: bytes");
    expect(same(encoded[0].escapes_high, encoded[1].escapes_high, found.n_escapes),
           "encode: escapes, high");
    if (map.n_escape_lists == 2)
        expect(same(encoded[0].escapes_low, encoded[1].escapes_low, found.n_escapes),
               "encode: escapes, low");
}

// Streams one behind the other in `payload`, with READ_SLACK_BYTES of anything behind them.
uint8_t payload[2][8 * MAX_BYTES];
uint8_t raw_fields[2][MAX_BYTES];

void decode(const Kernels& kernels, Form form, const FrequencyTable& table, DecodeStream* streams,
            uint32_t n_streams, const uint8_t* raw, uint64_t steps_per_row, bool streaming,
            uint8_t* output, size_t n_steps) {
    const uint64_t step_bytes = uint64_t{LANES} * FIELD_MAPS[form].unit_bytes;
    __builtin_memset(output, CANARY, MAX_BYTES);
    uint8_t* base = output + (64 - reinterpret_cast<uintptr_t>(output) % 64) % 64 + 64;
    const uint64_t gap = streaming ? 0 : steps_per_row < n_steps ? MAX_GAP : 0;
    const StepTarget target{base, steps_per_row * step_bytes + gap, steps_per_row, streaming};
    kernels.decode_streams(form, table, streams, n_streams, raw, target, {raw, 256});
    expect(all_canaries(output, base), "decode: wrote before the output");
    const uint64_t n_rows = (n_steps + steps_per_row - 1) / steps_per_row;
    uint8_t* end = base + n_steps * step_bytes + (n_rows - 1) * gap;
    if (end < output + MAX_BYTES)
        expect(all_canaries(end, output + MAX_BYTES), "decode: wrote behind the output");
}

void compare_decoders(Form form, const FrequencyTable& table, DecodeStream (*streams)[4],
                      uint32_t n_streams, size_t n_steps, bool valid) {
    const uint64_t rows[] = {n_steps, 1, 3};
    for (uint32_t variant = 0; variant < 4; ++variant) {
        const bool streaming = variant == 3;
        const uint64_t steps_per_row = variant == 3 ? n_steps : rows[variant];
        for (uint32_t k = 0; k < 2; ++k)
            decode(k == 0 ? REFERENCE : TESTED, form, table, streams[k], n_streams, raw_fields[k],
                   steps_per_row, streaming, outputs[k], n_steps);
        const auto offset = [](const uint8_t* output) {
            return (64 - reinterpret_cast<uintptr_t>(output) % 64) % 64 + 64;
        };
        const uint8_t* expected = outputs[0] + offset(outputs[0]);
        const uint8_t* found = outputs[1] + offset(outputs[1]);
        const size_t size = n_steps * LANES * FIELD_MAPS[form].unit_bytes + MAX_GAP * n_steps;
        expect(same(expected, found, size), valid ? "decode: words" : "decode: hostile words");
        if (valid && variant == 0)
            expect(same(found, words, n_steps * LANES * FIELD_MAPS[form].unit_bytes),
                   "decode: not what was encoded");
        for (uint32_t s = 0; s < n_streams; ++s) {
            expect(streams[0][s].consumed == streams[1][s].consumed, "decode: consumed");
            expect(streams[0][s].final_states == streams[1][s].final_states, "decode: states");
            if (valid)
                expect(streams[1][s].consumed && streams[1][s].final_states, "decode: refused");
        }
    }
}

void check_decoding(Form form, const FrequencyTable& table, size_t n_steps, uint32_t n_streams) {
    const FieldMap& map = FIELD_MAPS[form];
    DecodeStream streams[2][4] = {};
    fill_random(payload[0], sizeof payload[0]);
    fill_random(payload[1], sizeof payload[1]);
    uint8_t* at[2] = {payload[0], payload[1]};
    static uint8_t all_words[MAX_BYTES];
    __builtin_memcpy(all_words, words, sizeof words);
    uint64_t first_step = 0;
    for (uint32_t s = 0; s < n_streams; ++s) {
        const uint64_t steps = n_steps / n_streams + (s < n_steps % n_streams);
        __builtin_memcpy(words, all_words + first_step * LANES * map.unit_bytes,
                         steps * LANES * map.unit_bytes);
        encode(REFERENCE, form, table, steps, encoded[0]);
        const EncodeStream& from = encoded[0].stream;
        for (uint32_t k = 0; k < 2; ++k) {
            DecodeStream& to = streams[k][s];
            to.states = at[k];
            __builtin_memcpy(at[k], from.states, STATES_BYTES);
            at[k] += STATES_BYTES;
            to.bytes = at[k];
            __builtin_memcpy(at[k], from.bytes_end - from.n_bytes, from.n_bytes);
            at[k] += from.n_bytes;
            to.bytes_end = at[k];
            to.escapes = at[k];
            __builtin_memcpy(at[k], from.escapes_high, from.n_escapes);
            at[k] += from.n_escapes;
            if (map.n_escape_lists == 2) {
                __builtin_memcpy(at[k], from.escapes_low, from.n_escapes);
                at[k] += from.n_escapes;
            }
            to.n_escapes = from.n_escapes;
            to.first_step = first_step;
            to.n_steps = steps;
        }
        first_step += steps;
    }
    __builtin_memcpy(words, all_words, sizeof words);
    encode(REFERENCE, form, table, n_steps, encoded[0]);
    fill_random(raw_fields[0], MAX_BYTES);
    fill_random(raw_fields[1], MAX_BYTES);
    for (uint32_t k = 0; k < 2; ++k)
        __builtin_memcpy(raw_fields[k], encoded[0].raw, n_steps * step_raw_bytes(map));
    compare_decoders(form, table, streams, n_streams, n_steps, true);

    // Hostile: anything in states, bytes and escapes, too few or too many of them.
    for (uint32_t s = 0; s < n_streams; ++s) {
        const DecodeStream& one = streams[0][s];
        const auto from = static_cast<size_t>(one.states - payload[0]);
        const auto size = static_cast<size_t>(one.bytes_end - one.states) + 2 * one.n_escapes;
        fill_random(payload[0] + from, size);
        for (uint32_t lane = 0; lane < STATES_BYTES; ++lane)
            payload[0][from + lane] |= 1;  // a high byte is not 0
        __builtin_memcpy(payload[1] + from, payload[0] + from, size);
        const uint64_t n_escapes = one.n_escapes ? below(static_cast<uint32_t>(one.n_escapes)) : 0;
        const auto n_bytes = static_cast<uint32_t>(one.bytes_end - one.bytes);
        const uint32_t kept = below(n_bytes + 1);
        for (uint32_t k = 0; k < 2; ++k) {
            streams[k][s].n_escapes = n_escapes;
            streams[k][s].bytes_end = streams[k][s].bytes + kept;
        }
    }
    compare_decoders(form, table, streams, n_streams, n_steps, false);
}

void check_form(Form form) {
    const FieldMap& map = FIELD_MAPS[form];
    static FrequencyTable table;
    static Survey survey;
    for (uint32_t kind = 0; kind < N_KINDS; ++kind) {
        for (size_t n_steps : {size_t{1}, size_t{2}, size_t{3}, size_t{17}, MAX_STEPS}) {
            now = {form, kind, n_steps};
            const size_t n = n_steps * LANES;
            make_words(map, static_cast<Kind>(kind), words, n);
            check_survey(map, n);
            check_survey(map, n - 1 - below(LANES - 1));
            REFERENCE.survey_words(words, n, map.unit_bytes, map.value_mask >> CODE_SHIFT, survey);
            // Codes that the map does not tell apart count as one.
            uint32_t counts[N_CODES] = {};
            for (uint32_t code = 0; code < N_CODES; ++code)
                counts[code & map.value_mask >> CODE_SHIFT] += survey.counts[code];
            build_frequency_table(counts, n, map, table);
            check_encoding(form, table, n_steps);
            for (uint32_t n_streams = 1; n_streams <= 4; ++n_streams)
                if (n_streams <= n_steps) check_decoding(form, table, n_steps, n_streams);
        }
    }
}

// Two symbols, the second the escape: divisions by every frequency.
void check_frequencies(Form form) {
    const FieldMap& map = FIELD_MAPS[form];
    FrequencyTable table{};
    table.n_symbols = 2;
    table.escape = 1;
    const size_t n_steps = 6;
    make_words(map, LIKE_WEIGHTS, words, n_steps * LANES);
    uint32_t word = 0;
    __builtin_memcpy(&word, words, map.unit_bytes);
    const uint32_t top = map.unit_bytes == 1   ? word << BYTE_SHIFT
                         : map.unit_bytes == 2 ? word
                                               : word >> 16;
    table.value[0] = static_cast<uint16_t>(top & map.value_mask);
    for (uint32_t f = 1; f < SCALE; ++f) {
        now = {form, f, n_steps};
        table.frequency[0] = static_cast<uint8_t>(f);
        table.frequency[1] = static_cast<uint8_t>(SCALE - f);
        check_encoding(form, table, n_steps);
        if (f % 16 == 1) check_decoding(form, table, n_steps, 2);
    }
}

// Tables that no encoder would choose: any values, any frequencies; words of them or any words.
void check_tables(Form form) {
    const FieldMap& map = FIELD_MAPS[form];
    const size_t n_steps = 5;
    uint16_t values[N_CODES];
    uint32_t n_values = 0;
    for (uint32_t code = 0; code < N_CODES; ++code) {
        const uint32_t value = code << CODE_SHIFT;
        if ((value & map.value_mask) == value) values[n_values++] = static_cast<uint16_t>(value);
    }
    for (uint32_t round = 0; round < 40; ++round) {
        FrequencyTable table{};
        const uint32_t most = n_values < MAX_SYMBOLS - 1 ? n_values : MAX_SYMBOLS - 1;
        const uint32_t n_own = round < 4 ? most : 1 + below(most);
        now = {form, round, n_own};
        table.n_symbols = n_own + 1;
        table.escape = n_own;
        uint32_t n_chosen = 0;
        for (uint32_t i = 0; i < n_values; ++i)
            if (below(n_values - i) < n_own - n_chosen) table.value[n_chosen++] = values[i];
        for (uint32_t i = 0; i < table.n_symbols; ++i) table.frequency[i] = 1;
        for (uint32_t left = SCALE - table.n_symbols; left > 0;) {
            const uint32_t part = 1 + below(left);
            table.frequency[below(table.n_symbols)] += static_cast<uint8_t>(part);
            left -= part;
        }
        make_words(map, UNIFORM, words, n_steps * LANES);
        const uint32_t shift = map.unit_bytes == 1 ? BYTE_SHIFT : 0;
        for (size_t i = 0; i < n_steps * LANES && round % 2; ++i) {
            // The value is in the last two bytes of a word, or in the only one.
            uint8_t* at = words + (i + 1) * map.unit_bytes - (shift ? 1 : 2);
            uint16_t top = 0;
            __builtin_memcpy(&top, at, shift ? 1 : 2);
            const uint32_t value = table.value[below(n_own)];
            top = static_cast<uint16_t>((top & ~(map.value_mask >> shift)) | value >> shift);
            __builtin_memcpy(at, &top, shift ? 1 : 2);
        }
        check_encoding(form, table, n_steps);
        check_decoding(form, table, n_steps, 1 + round % 4);
    }
}

void check_tokens() {
    constexpr uint32_t N_TABLES = 4;
    constexpr size_t N_STEPS = 50;
    constexpr size_t N = N_STEPS * TOKEN_LANES;
    static TokenTable tables[N_TABLES];
    static TokenSlots slots[N_TABLES];
    static uint8_t symbols[N], ids[N], found[2][N + SLACK], stream[2 * N + TOKEN_STATES_BYTES];
    static uint8_t copies[2][sizeof stream + SLACK], other_stream[SLACK + sizeof stream];
    for (uint32_t round = 0; round < 20; ++round) {
        now = {round, 0, 0};
        const uint32_t n_symbols = round == 0 ? 1 : round == 1 ? 256 : 2 + below(255);
        for (uint32_t t = 0; t < N_TABLES; ++t) {
            uint32_t counts[256] = {};
            for (uint32_t s = 0; s < n_symbols; ++s) counts[s] = 1 + (below(1000) >> geometric());
            build_token_table(counts, n_symbols, tables[t]);
            build_token_slots(tables[t], slots[t]);
        }
        for (size_t i = 0; i < N; ++i) {
            ids[i] = static_cast<uint8_t>(below(N_TABLES));
            do symbols[i] = static_cast<uint8_t>(below(n_symbols));
            while (tables[ids[i]].frequency[symbols[i]] == 0 ||
                   tables[0].frequency[symbols[i]] == 0);
        }
        for (const uint8_t* own_ids :
             {static_cast<const uint8_t*>(nullptr), static_cast<const uint8_t*>(ids)}) {
            used = &TESTED;
            __builtin_memset(other_stream, CANARY, sizeof other_stream);
            const size_t other_size =
                encode_tokens(symbols, own_ids, N, tables, other_stream + SLACK + sizeof stream);
            used = &REFERENCE;
            const size_t size = encode_tokens(symbols, own_ids, N, tables, stream + sizeof stream);
            expect(other_size == size && same(stream + sizeof stream - size,
                                              other_stream + SLACK + sizeof stream - size, size),
                   "tokens: encoding");
            expect(all_canaries(other_stream, other_stream + SLACK), "tokens: wrote too much");
            for (uint32_t hostile = 0; hostile < 2; ++hostile) {
                const uint8_t* ends[2];
                uint32_t states[2][TOKEN_LANES];
                const size_t kept = hostile ? TOKEN_STATES_BYTES + size / 3 / 2 * 2 : size;
                for (uint32_t k = 0; k < 2; ++k) {
                    // What lies behind the end may differ: stop where it is read.
                    fill_random(copies[k], sizeof copies[k]);
                    __builtin_memcpy(copies[k], stream + sizeof stream - size, size);
                    __builtin_memcpy(states[k], copies[k], TOKEN_STATES_BYTES);
                    if (hostile) states[k][round] ^= 0x5A5A;
                    __builtin_memset(found[k], CANARY, sizeof found[k]);
                    const Kernels& kernels = k == 0 ? REFERENCE : TESTED;
                    ends[k] = kernels.decode_token_steps(states[k], copies[k] + TOKEN_STATES_BYTES,
                                                         copies[k] + kept, own_ids, N_STEPS, slots,
                                                         found[k]);
                    expect(all_canaries(found[k] + N, found[k] + sizeof found[k]),
                           "tokens: wrote behind the symbols");
                }
                const bool too_few[2] = {ends[0] > copies[0] + kept, ends[1] > copies[1] + kept};
                expect(too_few[0] == too_few[1], "tokens: too few words");
                if (too_few[0]) continue;
                expect(ends[0] - copies[0] == ends[1] - copies[1], "tokens: consumed");
                expect(same(states[0], states[1], sizeof states[0]), "tokens: states");
                expect(same(found[0], found[1], N), "tokens: symbols");
                if (!hostile) expect(same(found[1], symbols, N), "tokens: not what was encoded");
            }
        }
    }
}

void check_crc() {
    fill_random(words, sizeof words);
    for (size_t n = 0; n < 1200; ++n) {
        now = {n, 0, 0};
        const auto start = static_cast<uint32_t>(random());
        const uint8_t* from = words + n % 67;
        expect(TESTED.crc32(from, n, start) == REFERENCE.crc32(from, n, start), "crc32");
    }
}

}  // namespace

int main() {
    check_crc();
    for (uint32_t form = 1; form < N_FORMS; ++form) {
        check_form(static_cast<Form>(form));
        check_frequencies(static_cast<Form>(form));
        check_tables(static_cast<Form>(form));
    }
    check_tokens();
    say(TESTED.name, n_checks, n_failures, seed);
    puts(n_failures == 0 ? "PASSED" : "FAILED");
    return n_failures != 0;
}
