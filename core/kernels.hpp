// SPDX-License-Identifier: Apache-2.0
//
// The kernels of a backend: one table of function pointers each, the same names and contracts for
// all. The scalar table is the reference; every other backend must produce the same bytes, both
// ways.
//
// A kernel neither allocates nor fails. Its caller (block.cpp) has checked every size and table;
// what a hostile stream can still do is ask for bytes or escapes that are not there, and then
// kernels clamp and report.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frequency_table.hpp"
#include "stream_format.hpp"
#include "token_coder.hpp"

namespace wcodec {

// Where the words of a step go: step i starts at base + (i / steps_per_row) * row_stride + (i %
// steps_per_row) * 128 w. A block whose units are contiguous has one row.
struct StepTarget {
    uint8_t* base;
    uint64_t row_stride;
    uint64_t steps_per_row;
    // The words will leave the caches anyway: write round them. Only where every step is aligned to
    // STREAMING_ALIGNMENT; a backend may ignore it.
    bool streaming;
};
constexpr uint64_t STREAMING_ALIGNMENT = 64;

// Rows of bytes that the caller will read next, perhaps none. A backend may fetch them into the
// cache while it codes; they are not there to be used.
struct Ahead {
    const uint8_t* begin = nullptr;
    uint64_t n_rows = 0;
    uint64_t row_bytes = 0;
    uint64_t row_stride = 0;
};

// Fetches `ahead` evenly over the steps of a loop, so that the reads hide behind the work. The
// lines of the last, partial share stay out.
constexpr uint64_t LINE_BYTES = 64;
struct Fetcher {
    const uint8_t* next;
    uint64_t n_lines;  // left
    uint64_t lines_a_step;
    uint64_t row_lines;
    uint64_t left_in_row;
    uint64_t gap;  // from the lines of a row to those of the next
};

static inline Fetcher fetch_over(const Ahead& ahead, uint64_t n_steps) {
    const uint64_t row_lines = ahead.row_bytes / LINE_BYTES;
    const uint64_t n_lines = ahead.n_rows * row_lines;
    if (n_lines == 0 || n_steps == 0) return {};
    const uint64_t lines_a_step = (n_lines + n_steps - 1) / n_steps;
    return {ahead.begin, n_lines / lines_a_step * lines_a_step,    lines_a_step, row_lines,
            row_lines,   ahead.row_stride - row_lines * LINE_BYTES};
}

static inline void fetch(Fetcher& fetcher) {
    if (fetcher.n_lines == 0) return;
    for (uint64_t i = 0; i < fetcher.lines_a_step; ++i) {
        __builtin_prefetch(fetcher.next, 0, 2);
        fetcher.next += LINE_BYTES;
        if (--fetcher.left_in_row == 0) {
            fetcher.left_in_row = fetcher.row_lines;
            fetcher.next += fetcher.gap;
        }
    }
    fetcher.n_lines -= fetcher.lines_a_step;
}

struct DecodeStream {
    const uint8_t* states;  // STATES_BYTES
    const uint8_t* bytes;
    const uint8_t* bytes_end;
    const uint8_t* escapes;  // high bytes; with two lists the low bytes follow, n_escapes later
    uint64_t n_escapes;
    uint64_t first_step;
    uint64_t n_steps;
    // Results.
    bool consumed;      // exactly all bytes and all escapes were used
    bool final_states;  // every lane ended in FINAL_STATE
};

struct EncodeStream {
    uint16_t* values;  // of 128 n_steps units, as split_steps wrote them; may be overwritten
    uint64_t n_steps;
    uint8_t* states;        // STATES_BYTES
    uint8_t* bytes_end;     // bytes are written backwards from here; at most 128 n_steps, and
                            // WRITE_SLACK_BYTES before them may be overwritten
    uint8_t* escapes_high;  // room for 128 n_steps entries; maps with one list use only this one
    uint8_t* escapes_low;
    // Results.
    uint64_t n_bytes;
    uint64_t n_escapes;
};
constexpr uint64_t WRITE_SLACK_BYTES = 64;

// What the encoder wants to know of the words of a block.
struct Survey {
    uint32_t any;              // OR of all words
    uint32_t counts[N_CODES];  // of top >> CODE_SHIFT & 0x1FF, where top is the 16-bit word, the
                               // upper half of a 32-bit one, or a byte << BYTE_SHIFT
};

// How units of rans32 of 2 or 4 bytes are put together, where their codes are few runs.
struct WordJoin {
    uint32_t unit_bytes;
    uint32_t raw_bits;  // 1 to MAX_JOINED_RAW_BITS
    uint32_t sign_raw;
    uint32_t zero_bits;
    uint32_t code_mask;
    uint32_t code_shift;
    uint32_t n_runs;
    uint32_t first_symbol[4];  // of a run
    uint32_t gap[4];  // what is added to it and the symbols after it: their sum is the code
};
constexpr uint32_t MAX_JOINED_RAW_BITS = 25;  // with 7 bits before them they are within 4 bytes
constexpr uint32_t MAX_JOINED_RUNS = 4;

struct Kernels {
    const char* name;
    uint32_t (*crc32)(const uint8_t* data, size_t size, uint32_t start);
    // w = 1, 2 or 4 bytes a word; n > 0. Bits of codes outside `code_mask`, which is not zero, need
    // not be told apart.
    void (*survey_words)(const uint8_t* words, size_t n, uint32_t w, uint32_t code_mask,
                         Survey& survey);
    // `values` has room for 128 n_steps entries; only encode_stream of the same backend reads them,
    // so each backend orders them as it likes.
    void (*split_steps)(Form form, const uint8_t* words, size_t n_steps, uint16_t* values,
                        uint8_t* raw);
    void (*encode_stream)(const FieldMap& map, const FrequencyTable& table, EncodeStream& stream,
                          Fetcher& fetcher);
    // `raw` holds the raw fields of all steps of the block. READ_SLACK_BYTES behind the block are
    // readable.
    void (*decode_streams)(Form form, const FrequencyTable& table, DecodeStream* streams,
                           uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                           const Ahead& ahead);
    // n_steps steps of all TOKEN_LANES symbols, the last first, by what `ids` and `tables` say as
    // in encode_tokens. Words are written backwards from `to`, before which TOKEN_STATES_BYTES more
    // can be written than the words take; returns where they begin.
    uint8_t* (*encode_token_steps)(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                                   size_t n_steps, const TokenEncodings* tables, uint8_t* to);
    // n_steps steps of all TOKEN_LANES symbols. `ids` and `tables` as of decode_tokens. Returns
    // where the words that are left begin: beyond `end` if there were too few, and then it may have
    // stopped early. READ_SLACK_BYTES behind `end` are readable.
    const uint8_t* (*decode_token_steps)(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                         const uint8_t* ids, size_t n_steps,
                                         const TokenSlots* tables, uint8_t* symbols);
    // Puts together the first of n units, and returns their number: a multiple of 8, perhaps 0. The
    // code of an escape is any. READ_SLACK_BYTES behind the raw bits are readable.
    size_t (*join_words)(const WordJoin& join, const uint8_t* symbols, size_t n, const uint8_t* raw,
                         uint8_t* units);
};

extern const Kernels SCALAR_KERNELS;
// Built for x86-64 (WCODEC_X86_64) only; to be used only where dispatch.cpp says so.
extern const Kernels AVX2_KERNELS;
extern const Kernels AVX512_KERNELS;
// Built for aarch64 (WCODEC_AARCH64) only; its CRC is to be used only where dispatch.cpp says so.
extern const Kernels NEON_KERNELS;

// Entries that another backend reuses.
void survey_words_scalar(const uint8_t* words, size_t n, uint32_t w, uint32_t code_mask,
                         Survey& survey);
uint8_t* encode_token_steps_scalar(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                                   size_t n_steps, const TokenEncodings* tables, uint8_t* to);
uint8_t* encode_token_steps_avx2(uint32_t* states, const uint8_t* symbols, const uint8_t* ids,
                                 size_t n_steps, const TokenEncodings* tables, uint8_t* to);
const uint8_t* decode_token_steps_scalar(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                         const uint8_t* ids, size_t n_steps,
                                         const TokenSlots* tables, uint8_t* symbols);
const uint8_t* decode_token_steps_avx2(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                       const uint8_t* ids, size_t n_steps, const TokenSlots* tables,
                                       uint8_t* symbols);
const uint8_t* decode_token_steps_avx512(uint32_t* states, const uint8_t* from, const uint8_t* end,
                                         const uint8_t* ids, size_t n_steps,
                                         const TokenSlots* tables, uint8_t* symbols);
size_t join_words_scalar(const WordJoin& join, const uint8_t* symbols, size_t n, const uint8_t* raw,
                         uint8_t* units);
size_t join_words_avx2(const WordJoin& join, const uint8_t* symbols, size_t n, const uint8_t* raw,
                       uint8_t* units);

// dispatch.cpp: the backends this machine can run, best first, and the one in use.
const Kernels* const* available_backends(size_t& n);
const Kernels& kernels();
bool use_backend(const char* name);  // false: no such backend here

}  // namespace wcodec
