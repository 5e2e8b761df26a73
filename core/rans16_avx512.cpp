// SPDX-License-Identifier: Apache-2.0
//
// rans16 with AVX-512 (F, BW, VL, DQ, VBMI, VBMI2), 64 lanes in one register. Built with ISA flags,
// so everything here has internal linkage and nothing comes from the standard library: the linker
// could take an inline function compiled here for the whole program.
//
// A group of 64 states is two registers of bytes: the low bytes and the high bytes, as in a
// payload. The 256 slots and the tables of up to 64 symbols are registers too, so every lookup is a
// byte permutation. Two streams are decoded side by side: one alone waits for its own results.
// survey, split and encoding are the scalar ones.
#include <immintrin.h>

#include "crc32.hpp"
#include "kernels.hpp"
#include "planes.hpp"

#define INLINE __attribute__((always_inline)) inline

namespace wcodec {
namespace {

struct alignas(64) Bytes64 {
    uint8_t byte[64];
};

constexpr uint64_t LINE_BYTES = 64;

INLINE __m512i load(const void* from) { return _mm512_loadu_si512(from); }

// Bit i set for i < n; all 64 for n >= 64.
INLINE __mmask64 first(uint64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; }

// ---- raw fields ----

// F7 and F3: eight lanes are BITS bytes of the bit string. SPREAD moves those to the low bytes of a
// quadword each; ALIGN then picks eight bits for each lane, so that bit 0 of its field lands on bit
// `at` (a start below bit 0 wraps round to bit 63, into zeros or bits that are masked away).
template <unsigned bits>
constexpr Bytes64 make_spread() {
    Bytes64 spread{};
    for (unsigned i = 0; i < 64; ++i)
        spread.byte[i] = static_cast<uint8_t>(i / 8 * bits + (i % 8 < bits ? i % 8 : 0));
    return spread;
}

template <unsigned bits, unsigned at>
constexpr Bytes64 make_align() {
    Bytes64 align{};
    for (unsigned i = 0; i < 64; ++i)
        align.byte[i] = static_cast<uint8_t>((64 + i % 8 * bits - at) % 64);
    return align;
}

template <unsigned bits>
constexpr Bytes64 SPREAD = make_spread<bits>();
template <unsigned bits, unsigned at>
constexpr Bytes64 ALIGN = make_align<bits, at>();

// ---- decoding ----

struct DecodeTables {
    __m512i slot[4];  // symbol of each slot
    __m512i frequency;
    __m512i cum;
    __m512i value_high;
    __m512i value_low;
    __m512i escape;  // its index in every byte; 255, which no symbol has, without one
};

void build_tables(const FrequencyTable& table, DecodeTables& tables) {
    alignas(64) uint8_t slot[SCALE];
    Bytes64 frequency{}, cum{}, high{}, low{};
    uint32_t at = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        frequency.byte[i] = table.frequency[i];
        cum.byte[i] = static_cast<uint8_t>(at);
        high.byte[i] = static_cast<uint8_t>(table.value[i] >> 8);
        low.byte[i] = static_cast<uint8_t>(table.value[i]);
        for (uint32_t end = at + table.frequency[i]; at < end; ++at)
            slot[at] = static_cast<uint8_t>(i);
    }
    for (uint32_t i = 0; i < 4; ++i) tables.slot[i] = load(slot + 64 * i);
    tables.frequency = load(&frequency);
    tables.cum = load(&cum);
    tables.value_high = load(&high);
    tables.value_low = load(&low);
    tables.escape = _mm512_set1_epi8(static_cast<char>(table.escape));
}

// A stream on its way.
struct Decoder {
    __m512i low[2];  // states
    __m512i high[2];
    const uint8_t* from;
    const uint8_t* end;
    uint64_t missing;  // bytes that were due beyond the end; they were taken as zeros
    uint64_t n_escapes;
    const uint8_t* raw;
    uint8_t* row;
    uint8_t* to;
    uint64_t left_in_row;
};

INLINE void start(const DecodeStream& stream, const FieldMap& map, const uint8_t* raw,
                  const StepTarget& target, Decoder& decoder) {
    for (uint32_t g = 0; g < 2; ++g) {
        decoder.low[g] = load(stream.states + g * 2 * GROUP_LANES);
        decoder.high[g] = load(stream.states + g * 2 * GROUP_LANES + GROUP_LANES);
    }
    decoder.from = stream.bytes;
    decoder.end = stream.bytes_end;
    decoder.missing = 0;
    decoder.n_escapes = 0;
    decoder.raw = raw + stream.first_step * step_raw_bytes(map);
    const uint64_t step_in_row = stream.first_step % target.steps_per_row;
    decoder.row = target.base + stream.first_step / target.steps_per_row * target.row_stride;
    decoder.to = decoder.row + step_in_row * LANES * map.unit_bytes;
    decoder.left_in_row = target.steps_per_row - step_in_row;
}

INLINE void finish(const Decoder& decoder, DecodeStream& stream) {
    stream.consumed = decoder.missing == 0 && decoder.from == decoder.end &&
                      decoder.n_escapes == stream.n_escapes;
    const __m512i high = _mm512_set1_epi8(FINAL_STATE >> 8);
    const __m512i low = _mm512_set1_epi8(FINAL_STATE & 0xFF);
    __mmask64 others = 0;
    for (uint32_t g = 0; g < 2; ++g)
        others |= _mm512_cmpneq_epi8_mask(decoder.high[g], high) |
                  _mm512_cmpneq_epi8_mask(decoder.low[g], low);
    stream.final_states = others == 0;
}

// Escape values of the lanes of `which`, in lane order; 0 where a hostile stream asks for more than
// it has. Nothing is read beyond the lists.
template <Form form>
INLINE void take_escapes(const DecodeStream& stream, __mmask64 which, uint64_t& n_escapes,
                         __m512i& value_high, __m512i& value_low) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const uint64_t at = n_escapes < stream.n_escapes ? n_escapes : stream.n_escapes;
    const __mmask64 there = first(stream.n_escapes - at);
    const __m512i entry =
        _mm512_maskz_expand_epi8(which, _mm512_maskz_loadu_epi8(there, stream.escapes + at));
    __m512i high = entry;
    __m512i low = _mm512_setzero_si512();
    if constexpr (map.n_escape_lists == 2) {
        low = _mm512_maskz_expand_epi8(
            which, _mm512_maskz_loadu_epi8(there, stream.escapes + stream.n_escapes + at));
    } else if constexpr (map.escape_shift == 7) {  // shifts of words: strays are masked below
        high = _mm512_srli_epi16(entry, 1);
        low = _mm512_slli_epi16(entry, 7);
    }
    high = _mm512_and_si512(high, _mm512_set1_epi8(map.value_mask >> 8));
    low = _mm512_and_si512(low, _mm512_set1_epi8(static_cast<char>(map.value_mask & 0xFF)));
    value_high = _mm512_mask_mov_epi8(value_high, which, high);
    value_low = _mm512_mask_mov_epi8(value_low, which, low);
    n_escapes += static_cast<uint64_t>(__builtin_popcountll(which));
}

template <bool streaming>
INLINE void store(uint8_t* to, __m512i value) {
    if constexpr (streaming) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
    } else {
        _mm512_storeu_si512(to, value);
    }
}

// The words of group g from the values of its symbols and the raw fields of the step. Reads up to
// 64 bytes from a field's start, at most READ_SLACK_BYTES beyond the block.
template <Form form, bool streaming>
INLINE void join_group(uint32_t g, __m512i high, __m512i low, const uint8_t* raw, uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    constexpr int A_OR_B_AND_C = 0xF8;
    constexpr int A_SELECTS_B_OR_C = 0xCA;
    const __m512i bit7 = _mm512_set1_epi8(static_cast<char>(0x80));
    if constexpr (map.top_field == P8_BYTES) {
        const __m512i top = load(raw + g * (P8_BYTES / 2));
        high = _mm512_ternarylogic_epi64(high, top, bit7, A_OR_B_AND_C);
        if constexpr (form == FORM_FP16_E5M1) {
            // F2: each 16-byte piece q has its two bits at 2 q. Shifts of words: strays are masked.
            const __m512i pairs = _mm512_broadcast_i32x4(_mm_loadu_si128(
                reinterpret_cast<const __m128i*>(raw + P8_BYTES + g * (F2_BYTES / 2))));
            const __m512i bit0_of = _mm512_sllv_epi64(
                pairs, _mm512_set_epi64(1, 1, 3, 3, 5, 5, 7, 7));  // field bit 0 to bit 7
            const __m512i bit1_of = _mm512_srlv_epi64(
                pairs, _mm512_set_epi64(7, 7, 5, 5, 3, 3, 1, 1));  // field bit 1 to bit 0
            high = _mm512_ternarylogic_epi64(high, bit1_of, _mm512_set1_epi8(1), A_OR_B_AND_C);
            low = _mm512_ternarylogic_epi64(bit7, bit0_of, top, A_SELECTS_B_OR_C);
        } else {
            low = _mm512_ternarylogic_epi64(low, top, _mm512_set1_epi8(0x7F), A_OR_B_AND_C);
        }
    } else {
        const __m512i spread =
            _mm512_permutexvar_epi8(load(&SPREAD<7>), load(raw + g * (F7_BYTES / 2)));
        const __m512i sign = _mm512_multishift_epi64_epi8(load(&ALIGN<7, 1>), spread);
        const __m512i rest = _mm512_multishift_epi64_epi8(load(&ALIGN<7, 0>), spread);
        high = _mm512_ternarylogic_epi64(high, sign, bit7, A_OR_B_AND_C);
        low = _mm512_ternarylogic_epi64(low, rest, _mm512_set1_epi8(0x3F), A_OR_B_AND_C);
    }
    raw += map.top_field;

    const __m512i tops_low = _mm512_unpacklo_epi8(low, high);
    const __m512i tops_high = _mm512_unpackhi_epi8(low, high);
    if constexpr (map.unit_bytes == 2) {
        to += g * 128;
        store<streaming>(to, tops_low);
        store<streaming>(to + 64, tops_high);
    } else {
        __m512i bottoms_low = _mm512_setzero_si512();
        __m512i bottoms_high = bottoms_low;
        if constexpr (map.low_fields != 0) {
            __m512i mid, lowest;
            if constexpr (map.low_fields == F3_BYTES) {
                const __m512i spread =
                    _mm512_permutexvar_epi8(load(&SPREAD<3>), load(raw + g * (F3_BYTES / 2)));
                mid = _mm512_and_si512(_mm512_multishift_epi64_epi8(load(&ALIGN<3, 5>), spread),
                                       _mm512_set1_epi8(static_cast<char>(0xE0)));
                lowest = _mm512_setzero_si512();
            } else {
                mid = load(raw + g * GROUP_LANES);
                lowest = load(raw + P8_BYTES + g * GROUP_LANES);
            }
            bottoms_low = _mm512_unpacklo_epi8(lowest, mid);
            bottoms_high = _mm512_unpackhi_epi8(lowest, mid);
        }
        to += g * 256;
        store<streaming>(to, _mm512_unpacklo_epi16(bottoms_low, tops_low));
        store<streaming>(to + 64, _mm512_unpackhi_epi16(bottoms_low, tops_low));
        store<streaming>(to + 128, _mm512_unpacklo_epi16(bottoms_high, tops_high));
        store<streaming>(to + 192, _mm512_unpackhi_epi16(bottoms_high, tops_high));
    }
}

// One step of 128 lanes. `checked`: the stream may end in it. Otherwise LANES bytes are there.
template <Form form, bool checked, bool streaming>
INLINE void decode_step(const DecodeTables& tables, const DecodeStream& stream,
                        const StepTarget& target, Decoder& decoder) {
    constexpr FieldMap map = FIELD_MAPS[form];
    constexpr int A_SELECTS_B_OR_C = 0xCA;
    const __m512i low_bytes = _mm512_set1_epi16(0x00FF);
    __m512i value_high[2], value_low[2];
    __mmask64 escapes[2];
    for (uint32_t g = 0; g < 2; ++g) {
        const __m512i low = decoder.low[g];
        const __m512i high = decoder.high[g];
        const __m512i symbol = _mm512_mask_blend_epi8(
            _mm512_movepi8_mask(low), _mm512_permutex2var_epi8(tables.slot[0], low, tables.slot[1]),
            _mm512_permutex2var_epi8(tables.slot[2], low, tables.slot[3]));
        const __m512i frequency = _mm512_permutexvar_epi8(symbol, tables.frequency);
        const __m512i bias = _mm512_sub_epi8(low, _mm512_permutexvar_epi8(symbol, tables.cum));
        value_high[g] = _mm512_permutexvar_epi8(symbol, tables.value_high);
        // The values of form 3 have no low byte.
        if constexpr (map.value_mask & 0xFF)
            value_low[g] = _mm512_permutexvar_epi8(symbol, tables.value_low);
        else
            value_low[g] = _mm512_setzero_si512();
        escapes[g] = _mm512_cmpeq_epi8_mask(symbol, tables.escape);

        // x = frequency * high + bias <= 65279, for the even and the odd lanes as 16-bit words.
        const __m512i even =
            _mm512_add_epi16(_mm512_mullo_epi16(_mm512_and_si512(frequency, low_bytes),
                                                _mm512_and_si512(high, low_bytes)),
                             _mm512_and_si512(bias, low_bytes));
        const __m512i odd = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_srli_epi16(frequency, 8), _mm512_srli_epi16(high, 8)),
            _mm512_srli_epi16(bias, 8));
        const __m512i middle = _mm512_shrdi_epi16(even, odd, 8);  // even >> 8 | odd << 8
        const __m512i new_low =
            _mm512_ternarylogic_epi64(low_bytes, even, middle, A_SELECTS_B_OR_C);
        const __m512i new_high =
            _mm512_ternarylogic_epi64(low_bytes, middle, odd, A_SELECTS_B_OR_C);

        const __mmask64 due = _mm512_testn_epi8_mask(new_high, new_high);
        const uint64_t n_due = static_cast<uint64_t>(__builtin_popcountll(due));
        __m512i bytes;
        if constexpr (checked) {
            const uint64_t n_left = static_cast<uint64_t>(decoder.end - decoder.from);
            const uint64_t n_taken = n_due < n_left ? n_due : n_left;
            bytes = _mm512_maskz_loadu_epi8(first(n_left), decoder.from);
            decoder.from += n_taken;
            decoder.missing += n_due - n_taken;
        } else {
            bytes = load(decoder.from);
            decoder.from += n_due;
        }
        decoder.high[g] = _mm512_mask_mov_epi8(new_high, due, new_low);
        decoder.low[g] = _mm512_mask_expand_epi8(new_low, due, bytes);
    }
    if (__builtin_expect((escapes[0] | escapes[1]) != 0, 0))
        for (uint32_t g = 0; g < 2; ++g)
            take_escapes<form>(stream, escapes[g], decoder.n_escapes, value_high[g], value_low[g]);
    for (uint32_t g = 0; g < 2; ++g)
        join_group<form, streaming>(g, value_high[g], value_low[g], decoder.raw, decoder.to);

    decoder.raw += step_raw_bytes(map);
    decoder.to += LANES * map.unit_bytes;
    if (__builtin_expect(--decoder.left_in_row == 0, 0)) {
        decoder.left_in_row = target.steps_per_row;
        decoder.row += target.row_stride;
        decoder.to = decoder.row;
    }
}

INLINE bool has_step(const Decoder& decoder) { return decoder.end - decoder.from >= int(LANES); }

// Fetches `ahead` evenly over the steps, so that the reads hide behind the decoding.
struct Fetcher {
    const char* next;
    uint64_t n_lines;  // left
    uint64_t lines_a_step;
};

INLINE void fetch(Fetcher& fetcher) {
    if (fetcher.n_lines == 0) return;
    for (uint64_t i = 0; i < fetcher.lines_a_step; ++i, fetcher.next += LINE_BYTES)
        _mm_prefetch(fetcher.next, _MM_HINT_T1);
    fetcher.n_lines -= fetcher.lines_a_step;
}

template <Form form, bool streaming>
INLINE void decode_rest(const DecodeTables& tables, const StepTarget& target, uint64_t n_steps,
                        Decoder& decoder, DecodeStream& stream, Fetcher& fetcher) {
    for (; n_steps > 0; --n_steps) {
        fetch(fetcher);
        if (has_step(decoder))
            decode_step<form, false, streaming>(tables, stream, target, decoder);
        else
            decode_step<form, true, streaming>(tables, stream, target, decoder);
    }
    finish(decoder, stream);
}

template <Form form, bool streaming>
void decode_form(const FrequencyTable& table, DecodeStream* streams, uint32_t n_streams,
                 const uint8_t* raw, const StepTarget& target, const Ahead& ahead) {
    constexpr FieldMap map = FIELD_MAPS[form];
    DecodeTables tables;
    build_tables(table, tables);
    uint64_t n_steps = 0;
    for (uint32_t s = 0; s < n_streams; ++s) n_steps += streams[s].n_steps;
    // The lines of the last, partial share stay out.
    const uint64_t lines_a_step =
        n_steps == 0 ? 0 : (ahead.size / LINE_BYTES + n_steps - 1) / n_steps;
    Fetcher fetcher{reinterpret_cast<const char*>(ahead.begin), 0, lines_a_step};
    if (lines_a_step != 0) fetcher.n_lines = ahead.size / LINE_BYTES / lines_a_step * lines_a_step;
    for (; n_streams >= 2; streams += 2, n_streams -= 2) {
        Decoder a, b;
        start(streams[0], map, raw, target, a);
        start(streams[1], map, raw, target, b);
        // The first stream has as many steps as the second, or one more.
        uint64_t n_left = streams[1].n_steps;
        for (; n_left > 0 && has_step(a) && has_step(b); --n_left) {
            fetch(fetcher);
            decode_step<form, false, streaming>(tables, streams[0], target, a);
            fetch(fetcher);
            decode_step<form, false, streaming>(tables, streams[1], target, b);
        }
        decode_rest<form, streaming>(tables, target,
                                     streams[0].n_steps - streams[1].n_steps + n_left, a,
                                     streams[0], fetcher);
        decode_rest<form, streaming>(tables, target, n_left, b, streams[1], fetcher);
    }
    if (n_streams == 1) {
        Decoder decoder;
        start(streams[0], map, raw, target, decoder);
        decode_rest<form, streaming>(tables, target, streams[0].n_steps, decoder, streams[0],
                                     fetcher);
    }
    if constexpr (streaming) _mm_sfence();
}

using DecodeForm = void (*)(const FrequencyTable&, DecodeStream*, uint32_t, const uint8_t*,
                            const StepTarget&, const Ahead&);
template <bool streaming>
constexpr DecodeForm DECODE_FORM[N_FORMS] = {
    nullptr,
    decode_form<FORM_BF16_E8, streaming>,
    decode_form<FORM_BF16_E8M1, streaming>,
    decode_form<FORM_FP16_E5M1, streaming>,
    decode_form<FORM_FP32_E8, streaming>,
    decode_form<FORM_FP32_E8M1, streaming>,
    decode_form<FORM_FP32_E8_Z13, streaming>,
    decode_form<FORM_FP32_E8M1_Z13, streaming>,
    decode_form<FORM_FP32_E8_Z16, streaming>,
    decode_form<FORM_FP32_E8M1_Z16, streaming>,
};

void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead& ahead) {
    const DecodeForm decode = target.streaming ? DECODE_FORM<true>[form] : DECODE_FORM<false>[form];
    decode(table, streams, n_streams, raw, target, ahead);
}

}  // namespace

extern const Kernels AVX512_KERNELS;
const Kernels AVX512_KERNELS = {
    "avx512",           crc32_avx512,         survey_words_scalar,
    split_steps_scalar, encode_stream_scalar, decode_streams,
};

}  // namespace wcodec
