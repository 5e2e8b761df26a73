// SPDX-License-Identifier: Apache-2.0
//
// rans16 with AVX-512 (F, BW, VL, DQ, VBMI, VBMI2), 64 lanes in one register. Built with ISA flags,
// so everything here has internal linkage and nothing comes from the standard library: the linker
// could take an inline function compiled here for the whole program.
//
// A group of 64 states is two registers of bytes: the low bytes and the high bytes, as in a
// payload. The 256 slots and the tables of up to 64 symbols are registers too, so every lookup is a
// byte permutation. Two streams are decoded side by side: one alone waits for its own results.
// Values of units of one byte are kept as that byte.
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

INLINE __m512i load(const void* from) { return _mm512_loadu_si512(from); }

INLINE __m512i bytes_of(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
INLINE __m512i words_of(int value) { return _mm512_set1_epi16(static_cast<short>(value)); }

// Functions of vpternlog.
constexpr int SELECT = 0xCA;   // bits of B where A is 1, of C where A is 0
constexpr int A_OR_BC = 0xF8;  // A | B & C

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

void build_tables(const FieldMap& map, const FrequencyTable& table, DecodeTables& tables) {
    const unsigned low_shift = map.unit_bytes == 1 ? BYTE_SHIFT : 0;
    alignas(64) uint8_t slot[SCALE];
    Bytes64 frequency{}, cum{}, high{}, low{};
    uint32_t at = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        frequency.byte[i] = table.frequency[i];
        cum.byte[i] = static_cast<uint8_t>(at);
        high.byte[i] = static_cast<uint8_t>(table.value[i] >> 8);
        low.byte[i] = static_cast<uint8_t>(table.value[i] >> low_shift);
        for (uint32_t end = at + table.frequency[i]; at < end; ++at)
            slot[at] = static_cast<uint8_t>(i);
    }
    for (uint32_t i = 0; i < 4; ++i) tables.slot[i] = load(slot + 64 * i);
    tables.frequency = load(&frequency);
    tables.cum = load(&cum);
    tables.value_high = load(&high);
    tables.value_low = load(&low);
    tables.escape = bytes_of(static_cast<int>(table.escape));
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
    const __m512i high = bytes_of(FINAL_STATE >> 8);
    const __m512i low = bytes_of(FINAL_STATE & 0xFF);
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
    n_escapes += static_cast<uint64_t>(__builtin_popcountll(which));
    if constexpr (map.unit_bytes == 1) {
        value_low = _mm512_mask_mov_epi8(
            value_low, which, _mm512_and_si512(entry, bytes_of(map.value_mask >> BYTE_SHIFT)));
        return;
    }
    __m512i high = entry;
    __m512i low = _mm512_setzero_si512();
    if constexpr (map.n_escape_lists == 2) {
        low = _mm512_maskz_expand_epi8(
            which, _mm512_maskz_loadu_epi8(there, stream.escapes + stream.n_escapes + at));
    } else if constexpr (map.escape_shift == 7) {  // shifts of words: strays are masked below
        high = _mm512_srli_epi16(entry, 1);
        low = _mm512_slli_epi16(entry, 7);
    }
    high = _mm512_and_si512(high, bytes_of(map.value_mask >> 8));
    low = _mm512_and_si512(low, bytes_of(map.value_mask & 0xFF));
    value_high = _mm512_mask_mov_epi8(value_high, which, high);
    value_low = _mm512_mask_mov_epi8(value_low, which, low);
}

template <bool streaming>
INLINE void store(uint8_t* to, __m512i value) {
    if constexpr (streaming) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
    } else {
        _mm512_storeu_si512(to, value);
    }
}

// The raw bits of the bytes of group g. Reads like join_group.
template <Form form>
INLINE __m512i raw_bits_of_bytes(uint32_t g, const uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    if constexpr (map.top_field == F2_BYTES) {
        const __m512i pairs = _mm512_broadcast_i32x4(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(raw + g * (F2_BYTES / 2))));
        return _mm512_and_si512(_mm512_srlv_epi64(pairs, _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0)),
                                bytes_of(3));
    } else {
        constexpr unsigned BITS = map.top_field * 8 / LANES;
        const __m512i spread =
            _mm512_permutexvar_epi8(load(&SPREAD<BITS>), load(raw + g * (map.top_field / 2)));
        const __m512i fields = _mm512_multishift_epi64_epi8(load(&ALIGN<BITS, 0>), spread);
        if constexpr (form != FORM_FP8_T5)
            return _mm512_and_si512(fields, bytes_of((1 << BITS) - 1));
        const __m512i sign = _mm512_multishift_epi64_epi8(load(&ALIGN<BITS, 5>), spread);
        return _mm512_ternarylogic_epi64(_mm512_and_si512(sign, bytes_of(0x80)), fields,
                                         bytes_of(3), A_OR_BC);
    }
}

// The words of group g from the values of its symbols and the raw fields of the step. Reads up to
// 64 bytes from a field's start, at most READ_SLACK_BYTES beyond the block.
template <Form form, bool streaming>
INLINE void join_group(uint32_t g, __m512i high, __m512i low, const uint8_t* raw, uint8_t* to) {
    constexpr FieldMap map = FIELD_MAPS[form];
    if constexpr (map.unit_bytes == 1) {
        if constexpr (map.top_field != 0)
            low = _mm512_or_si512(low, raw_bits_of_bytes<form>(g, raw));
        store<streaming>(to + g * GROUP_LANES, low);
        return;
    }
    const __m512i bit7 = bytes_of(0x80);
    if constexpr (map.top_field == P8_BYTES) {
        const __m512i top = load(raw + g * (P8_BYTES / 2));
        high = _mm512_ternarylogic_epi64(high, top, bit7, A_OR_BC);
        if constexpr (form == FORM_FP16_E5M1) {
            // F2: each 16-byte piece q has its two bits at 2 q. Shifts of words: strays are masked.
            const __m512i pairs = _mm512_broadcast_i32x4(_mm_loadu_si128(
                reinterpret_cast<const __m128i*>(raw + P8_BYTES + g * (F2_BYTES / 2))));
            const __m512i bit0_of = _mm512_sllv_epi64(
                pairs, _mm512_set_epi64(1, 1, 3, 3, 5, 5, 7, 7));  // field bit 0 to bit 7
            const __m512i bit1_of = _mm512_srlv_epi64(
                pairs, _mm512_set_epi64(7, 7, 5, 5, 3, 3, 1, 1));  // field bit 1 to bit 0
            high = _mm512_ternarylogic_epi64(high, bit1_of, bytes_of(1), A_OR_BC);
            low = _mm512_ternarylogic_epi64(bit7, bit0_of, top, SELECT);
        } else {
            low = _mm512_ternarylogic_epi64(low, top, bytes_of(0x7F), A_OR_BC);
        }
    } else {
        const __m512i spread =
            _mm512_permutexvar_epi8(load(&SPREAD<7>), load(raw + g * (F7_BYTES / 2)));
        const __m512i sign = _mm512_multishift_epi64_epi8(load(&ALIGN<7, 1>), spread);
        const __m512i rest = _mm512_multishift_epi64_epi8(load(&ALIGN<7, 0>), spread);
        high = _mm512_ternarylogic_epi64(high, sign, bit7, A_OR_BC);
        low = _mm512_ternarylogic_epi64(low, rest, bytes_of(0x3F), A_OR_BC);
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
                                       bytes_of(0xE0));
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
    const __m512i low_bytes = words_of(0x00FF);
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
        if constexpr (map.unit_bytes == 1 || map.value_mask & 0xFF)
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
        const __m512i new_low = _mm512_ternarylogic_epi64(low_bytes, even, middle, SELECT);
        const __m512i new_high = _mm512_ternarylogic_epi64(low_bytes, middle, odd, SELECT);

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
    build_tables(map, table, tables);
    uint64_t n_steps = 0;
    for (uint32_t s = 0; s < n_streams; ++s) n_steps += streams[s].n_steps;
    Fetcher fetcher = fetch_over(ahead, n_steps);
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
    decode_form<FORM_INT8_T4, streaming>,
    decode_form<FORM_INT8_T5, streaming>,
    decode_form<FORM_INT8_T6, streaming>,
    decode_form<FORM_INT8_T8, streaming>,
    decode_form<FORM_FP8_T5, streaming>,
};

void decode_streams(Form form, const FrequencyTable& table, DecodeStream* streams,
                    uint32_t n_streams, const uint8_t* raw, const StepTarget& target,
                    const Ahead& ahead) {
    const DecodeForm decode = target.streaming ? DECODE_FORM<true>[form] : DECODE_FORM<false>[form];
    decode(table, streams, n_streams, raw, target, ahead);
}

// ---- splitting ----

// How the codes of a map's values (value >> the shift of its lowest bit) lie between split_steps
// and encode_stream: GROUP_CODES bytes a group, first the low 8 bits of each lane's code, then, for
// 9-bit codes, the 64 ninth bits.
constexpr uint32_t GROUP_CODES = 2 * GROUP_LANES;
constexpr uint32_t NINTH_BITS = GROUP_LANES;

constexpr uint16_t MASK_8 = 0x7F80;
constexpr uint16_t MASK_9 = 0x7FC0;
constexpr uint16_t MASK_6 = 0x7E00;

// The inverse of SPREAD: the first BITS bytes of each quadword, close together.
template <unsigned bits>
constexpr Bytes64 make_gather() {
    Bytes64 gather{};
    for (unsigned i = 0; i < 8 * bits; ++i)
        gather.byte[i] = static_cast<uint8_t>(i / bits * 8 + i % bits);
    return gather;
}

template <unsigned bits>
constexpr Bytes64 GATHER = make_gather<bits>();

// Fields of `bits` <= 7 bits, one a byte, as a bit string of 8 * bits bytes: pairs of fields become
// words, pairs of words dwords, pairs of dwords quadwords.
template <unsigned bits>
INLINE void pack_field(__m512i fields, uint8_t* to) {
    const __m512i words = _mm512_maddubs_epi16(words_of((1 << bits) << 8 | 1), fields);
    const __m512i dwords = _mm512_madd_epi16(words, _mm512_set1_epi32((1 << 2 * bits) << 16 | 1));
    const __m512i quads =
        _mm512_ternarylogic_epi64(_mm512_set1_epi64((1ll << 4 * bits) - 1), dwords,
                                  _mm512_srli_epi64(dwords, 32 - 4 * bits), SELECT);
    _mm512_mask_storeu_epi8(to, first(8 * bits),
                            _mm512_permutexvar_epi8(load(&GATHER<bits>), quads));
}

// The words of one group as planes of bytes in lane order.
struct Planes {
    __m512i high;  // of the word, or of its upper half
    __m512i low;
    __m512i mid;  // w = 4: the lower half
    __m512i lowest;
};

template <bool lower_half>
INLINE Planes planes_of(const uint8_t* words, uint32_t w) {
    const __m512i low_bytes = words_of(0x00FF);
    Planes planes{};
    __m512i first_half = load(words);
    __m512i second_half = load(words + 64);
    if (w == 4) {
        const __m512i third = load(words + 128);
        const __m512i fourth = load(words + 192);
        if constexpr (lower_half) {
            const __m512i low_words = _mm512_set1_epi32(0xFFFF);
            const __m512i a = _mm512_packus_epi32(_mm512_and_si512(first_half, low_words),
                                                  _mm512_and_si512(second_half, low_words));
            const __m512i b = _mm512_packus_epi32(_mm512_and_si512(third, low_words),
                                                  _mm512_and_si512(fourth, low_words));
            planes.mid = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
            planes.lowest =
                _mm512_packus_epi16(_mm512_and_si512(a, low_bytes), _mm512_and_si512(b, low_bytes));
        }
        first_half = _mm512_packus_epi32(_mm512_srli_epi32(first_half, 16),
                                         _mm512_srli_epi32(second_half, 16));
        second_half =
            _mm512_packus_epi32(_mm512_srli_epi32(third, 16), _mm512_srli_epi32(fourth, 16));
    }
    planes.high =
        _mm512_packus_epi16(_mm512_srli_epi16(first_half, 8), _mm512_srli_epi16(second_half, 8));
    planes.low = _mm512_packus_epi16(_mm512_and_si512(first_half, low_bytes),
                                     _mm512_and_si512(second_half, low_bytes));
    return planes;
}

// F2: piece q of 16 lanes has its two bits, which are the lowest of `fields`, at bits 2 q.
INLINE void store_f2(__m512i fields, uint8_t* to) {
    const __m512i placed = _mm512_sllv_epi64(fields, _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0));
    const __m256i halves =
        _mm256_or_si256(_mm512_castsi512_si256(placed), _mm512_extracti64x4_epi64(placed, 1));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to),
        _mm_or_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

template <Form form>
INLINE void split_group_of_bytes(uint32_t g, const uint8_t* words, uint8_t* codes, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    constexpr int CODED = map.value_mask >> BYTE_SHIFT;
    const __m512i bytes = load(words + g * GROUP_LANES);
    _mm512_storeu_si512(codes + g * GROUP_CODES, _mm512_and_si512(bytes, bytes_of(CODED)));
    __m512i fields = _mm512_andnot_si512(bytes_of(CODED), bytes);
    if constexpr (form == FORM_FP8_T5) {  // bit 7 becomes bit 2
        fields =
            _mm512_ternarylogic_epi64(_mm512_and_si512(_mm512_srli_epi16(bytes, 5), bytes_of(4)),
                                      bytes, bytes_of(3), A_OR_BC);
    }
    if constexpr (map.top_field == F2_BYTES) {
        store_f2(fields, raw + g * (F2_BYTES / 2));
    } else if constexpr (map.top_field != 0) {
        pack_field<map.top_field * 8 / LANES>(fields, raw + g * (map.top_field / 2));
    }
}

template <Form form>
INLINE void split_group(uint32_t g, const uint8_t* words, uint8_t* codes, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    const Planes planes =
        planes_of<map.low_fields != 0>(words + g * GROUP_LANES * map.unit_bytes, map.unit_bytes);
    const __m512i high = planes.high;
    const __m512i low = planes.low;
    codes += g * GROUP_CODES;
    // Shifts of words bring bits of the neighbour; the selections and masks take them away.
    if constexpr (map.value_mask == MASK_8) {
        _mm512_storeu_si512(codes,
                            _mm512_ternarylogic_epi64(bytes_of(0x01), _mm512_srli_epi16(low, 7),
                                                      _mm512_slli_epi16(high, 1), SELECT));
    } else if constexpr (map.value_mask == MASK_9) {
        _mm512_storeu_si512(codes,
                            _mm512_ternarylogic_epi64(bytes_of(0x03), _mm512_srli_epi16(low, 6),
                                                      _mm512_slli_epi16(high, 2), SELECT));
        const __mmask64 ninth = _mm512_test_epi8_mask(high, bytes_of(0x40));
        __builtin_memcpy(codes + NINTH_BITS, &ninth, sizeof ninth);
    } else {
        static_assert(map.value_mask == MASK_6);
        _mm512_storeu_si512(codes, _mm512_and_si512(_mm512_srli_epi16(high, 1), bytes_of(0x3F)));
    }

    if constexpr (map.top_field == P8_BYTES) {
        _mm512_storeu_si512(raw + g * (P8_BYTES / 2),
                            _mm512_ternarylogic_epi64(bytes_of(0x80), high, low, SELECT));
    } else {
        const __m512i sign = _mm512_and_si512(_mm512_srli_epi16(high, 1), bytes_of(0x40));
        const __m512i fields = _mm512_ternarylogic_epi64(sign, low, bytes_of(0x3F), A_OR_BC);
        pack_field<7>(fields, raw + g * (F7_BYTES / 2));
    }
    raw += map.top_field;
    if constexpr (map.low_fields == F2_BYTES) {
        const __m512i fields =
            _mm512_ternarylogic_epi64(_mm512_and_si512(_mm512_slli_epi16(high, 1), bytes_of(0x02)),
                                      _mm512_srli_epi16(low, 7), bytes_of(0x01), A_OR_BC);
        store_f2(fields, raw + g * (F2_BYTES / 2));
    }
    if constexpr (map.low_fields == F3_BYTES)
        pack_field<3>(_mm512_and_si512(_mm512_srli_epi16(planes.mid, 5), bytes_of(0x07)),
                      raw + g * (F3_BYTES / 2));
    if constexpr (map.low_fields == 2 * P8_BYTES) {
        _mm512_storeu_si512(raw + g * GROUP_LANES, planes.mid);
        _mm512_storeu_si512(raw + P8_BYTES + g * GROUP_LANES, planes.lowest);
    }
}

template <Form form>
void split_form(const uint8_t* words, size_t n_steps, uint8_t* codes, uint8_t* raw) {
    constexpr FieldMap map = FIELD_MAPS[form];
    for (; n_steps > 0; --n_steps) {
        for (uint32_t g = 0; g < 2; ++g) {
            if constexpr (map.unit_bytes == 1)
                split_group_of_bytes<form>(g, words, codes, raw);
            else
                split_group<form>(g, words, codes, raw);
        }
        words += LANES * map.unit_bytes;
        codes += 2 * GROUP_CODES;
        raw += step_raw_bytes(map);
    }
}

using SplitForm = void (*)(const uint8_t*, size_t, uint8_t*, uint8_t*);
constexpr SplitForm SPLIT_FORM[N_FORMS] = {
    nullptr,
    split_form<FORM_BF16_E8>,
    split_form<FORM_BF16_E8M1>,
    split_form<FORM_FP16_E5M1>,
    split_form<FORM_FP32_E8>,
    split_form<FORM_FP32_E8M1>,
    split_form<FORM_FP32_E8_Z13>,
    split_form<FORM_FP32_E8M1_Z13>,
    split_form<FORM_FP32_E8_Z16>,
    split_form<FORM_FP32_E8M1_Z16>,
    split_form<FORM_INT8_T4>,
    split_form<FORM_INT8_T5>,
    split_form<FORM_INT8_T6>,
    split_form<FORM_INT8_T8>,
    split_form<FORM_FP8_T5>,
};

void split_steps(Form form, const uint8_t* words, size_t n_steps, uint16_t* values, uint8_t* raw) {
    SPLIT_FORM[form](words, n_steps, reinterpret_cast<uint8_t*>(values), raw);
}

// ---- survey ----

// Codes are counted by their bits: a run of words becomes nine bit planes, and a walk down a
// binary tree halves the set of words by one bit after the other, leaves out empty sets, and counts
// what is left. Trained weights have some 30 codes of the 512, so most of the tree is empty.
constexpr uint32_t CODE_BITS = 9;
constexpr uint32_t CHUNK_VECTORS = 8;
constexpr uint32_t RUN_GROUPS = 8 * CHUNK_VECTORS;

struct WordSet {
    __m512i part[CHUNK_VECTORS];  // a bit for each word
};

INLINE uint32_t sum(__m512i counts) {
    return static_cast<uint32_t>(_mm512_reduce_add_epi64(counts));
}

// Counts the words of `set`, whose codes agree in all bits above `bit` with `code`.
template <uint32_t bit>
__attribute__((noinline)) void count_codes(const WordSet& set, const WordSet* planes, uint32_t code,
                                           uint32_t* counts) {
    const WordSet& plane = planes[bit];
    if constexpr (bit == 0) {
        __m512i all = _mm512_setzero_si512();
        __m512i ones = all;
        for (uint32_t v = 0; v < CHUNK_VECTORS; ++v) {
            all = _mm512_add_epi64(all, _mm512_popcnt_epi64(set.part[v]));
            ones = _mm512_add_epi64(
                ones, _mm512_popcnt_epi64(_mm512_and_si512(set.part[v], plane.part[v])));
        }
        const uint32_t n_ones = sum(ones);
        counts[code] += sum(all) - n_ones;
        counts[code | 1] += n_ones;
    } else {
        WordSet zeros, ones;
        __m512i any_zero = _mm512_setzero_si512();
        __m512i any_one = any_zero;
        for (uint32_t v = 0; v < CHUNK_VECTORS; ++v) {
            zeros.part[v] = _mm512_andnot_si512(plane.part[v], set.part[v]);
            ones.part[v] = _mm512_and_si512(plane.part[v], set.part[v]);
            any_zero = _mm512_or_si512(any_zero, zeros.part[v]);
            any_one = _mm512_or_si512(any_one, ones.part[v]);
        }
        if (_mm512_test_epi64_mask(any_zero, any_zero))
            count_codes<bit - 1>(zeros, planes, code, counts);
        if (_mm512_test_epi64_mask(any_one, any_one))
            count_codes<bit - 1>(ones, planes, code | 1u << bit, counts);
    }
}

template <typename Word>
INLINE Word word_at(const uint8_t* words, size_t i) {
    Word word;
    __builtin_memcpy(&word, words + i * sizeof(Word), sizeof(Word));
    return word;
}

template <typename Word>
void survey(const uint8_t* words, size_t n, Survey& survey) {
    constexpr uint32_t w = sizeof(Word);
    constexpr uint32_t TOP_SHIFT = 8 * w - 16 + CODE_SHIFT;
    __m512i any = _mm512_setzero_si512();
    __builtin_memset(survey.counts, 0, sizeof survey.counts);

    size_t n_groups = n / GROUP_LANES;
    const size_t n_done = n_groups * GROUP_LANES;
    WordSet set, planes[CODE_BITS];
    __builtin_memset(planes, 0, sizeof planes);
    const uint8_t* from = words;
    while (n_groups > 0) {
        const uint32_t groups =
            n_groups < RUN_GROUPS ? static_cast<uint32_t>(n_groups) : RUN_GROUPS;
        for (uint32_t group = 0; group < groups; ++group, from += GROUP_LANES * w) {
            for (uint32_t i = 0; i < w; ++i) any = _mm512_or_si512(any, load(from + 64 * i));
            const Planes bytes = planes_of<false>(from, w);
            for (uint32_t bit = 0; bit < CODE_BITS; ++bit) {
                const uint32_t top_bit = bit + CODE_SHIFT;
                const __mmask64 mask = _mm512_test_epi8_mask(top_bit < 8 ? bytes.low : bytes.high,
                                                             bytes_of(1 << top_bit % 8));
                __builtin_memcpy(reinterpret_cast<uint8_t*>(&planes[bit]) + 8 * group, &mask,
                                 sizeof mask);
            }
        }
        for (uint32_t v = 0; v < CHUNK_VECTORS; ++v) {
            const uint32_t in_set = groups > 8 * v ? groups - 8 * v : 0;
            set.part[v] = _mm512_maskz_set1_epi64(static_cast<__mmask8>(first(in_set)), -1);
        }
        count_codes<CODE_BITS - 1>(set, planes, 0, survey.counts);
        n_groups -= groups;
    }

    Word any_word = 0;
    alignas(64) Word lanes[64 / w];
    _mm512_store_si512(lanes, any);
    for (const Word lane : lanes) any_word |= lane;
    for (size_t i = n_done; i < n; ++i) {
        const Word word = word_at<Word>(words, i);
        any_word |= word;
        ++survey.counts[word >> TOP_SHIFT & (N_CODES - 1)];
    }
    survey.any = any_word;
}

void survey_words(const uint8_t* words, size_t n, uint32_t w, uint32_t code_mask, Survey& result) {
    if (w == 1) {
        survey_words_scalar(words, n, w, code_mask, result);
    } else if (w == 2) {
        survey<uint16_t>(words, n, result);
    } else {
        survey<uint32_t>(words, n, result);
    }
}

// ---- encoding ----

// Division by a frequency f of x < 256 f: (x + rounding) * reciprocal >> 16 + shift, where shift is
// the whole part of log2 f. Either the reciprocal is rounded down and x up, or only the reciprocal
// up: one of the two is exact for each f from 1 to 255 (tests/parity/test_backends.py encodes with
// every f). With e = 2^(16 + shift) - reciprocal * f, rounding down is exact where the multiples of
// f, of which 255 f is the largest, stay on their side: (255 f + 1) e <= 2^(16 + shift). That holds
// below 208, so for all symbols of a table but one at most.
struct EncodeTables {
    Bytes64 symbol_of_code[8];
    __m512i frequency;
    __m512i cum;
    __m512i shift;
    __m512i rounding;
    __m512i reciprocal[2];
    __m512i escape;
    bool always_round;
};

void build_tables(uint16_t value_mask, const FrequencyTable& table, EncodeTables& tables) {
    // Codes without a symbol are escapes. Without an escape symbol the caller's table covers all.
    const uint8_t other = table.escape == NO_ESCAPE ? 0 : static_cast<uint8_t>(table.escape);
    for (Bytes64& part : tables.symbol_of_code)
        for (uint8_t& symbol : part.byte) symbol = other;
    const unsigned code_shift = value_mask == MASK_9 ? 6 : value_mask == MASK_8 ? 7 : 9;
    Bytes64 frequency{}, cum{}, shift{}, rounding{};
    alignas(64) uint16_t reciprocal[MAX_SYMBOLS] = {};
    tables.always_round = true;
    uint32_t at = 0;
    for (uint32_t i = 0; i < table.n_symbols; ++i) {
        if (i != table.escape) {
            const uint32_t code = table.value[i] >> code_shift;
            tables.symbol_of_code[code / 64].byte[code % 64] = static_cast<uint8_t>(i);
        }
        const uint32_t f = table.frequency[i];
        const uint32_t log2 = 31 - static_cast<uint32_t>(__builtin_clz(f));
        const uint32_t one = 0x10000u << log2;
        uint32_t inverse = one / f;
        if (inverse > 0xFFFF) inverse = 0xFFFF;
        const bool rounds = (255 * f + 1) * (one - inverse * f) <= one;
        if (!rounds) {
            ++inverse;
            tables.always_round = false;
        }
        frequency.byte[i] = static_cast<uint8_t>(f);
        cum.byte[i] = static_cast<uint8_t>(at);
        shift.byte[i] = static_cast<uint8_t>(log2);
        rounding.byte[i] = rounds;
        reciprocal[i] = static_cast<uint16_t>(inverse);
        at += f;
    }
    tables.frequency = load(&frequency);
    tables.cum = load(&cum);
    tables.shift = load(&shift);
    tables.rounding = load(&rounding);
    tables.reciprocal[0] = load(reciprocal);
    tables.reciprocal[1] = load(reciprocal + 32);
    tables.escape = bytes_of(static_cast<int>(table.escape));
}

template <uint16_t value_mask>
INLINE __m512i symbols_of(const EncodeTables& tables, const uint8_t* codes) {
    const __m512i code = load(codes);
    const Bytes64* table = tables.symbol_of_code;
    if constexpr (value_mask == MASK_6) return _mm512_permutexvar_epi8(code, load(&table[0]));
    const __mmask64 bit7 = _mm512_movepi8_mask(code);
    const __m512i low_half = _mm512_mask_blend_epi8(
        bit7, _mm512_permutex2var_epi8(load(&table[0]), code, load(&table[1])),
        _mm512_permutex2var_epi8(load(&table[2]), code, load(&table[3])));
    if constexpr (value_mask == MASK_8) return low_half;
    const __m512i high_half = _mm512_mask_blend_epi8(
        bit7, _mm512_permutex2var_epi8(load(&table[4]), code, load(&table[5])),
        _mm512_permutex2var_epi8(load(&table[6]), code, load(&table[7])));
    __mmask64 ninth;
    __builtin_memcpy(&ninth, codes + NINTH_BITS, sizeof ninth);
    return _mm512_mask_blend_epi8(ninth, low_half, high_half);
}

// Writes the bytes of the lanes of `which` before `end`, in lane order; returns how many.
INLINE uint64_t put_before(uint8_t* end, __mmask64 which, __m512i bytes) {
    const uint64_t n = static_cast<uint64_t>(__builtin_popcountll(which));
    _mm512_mask_storeu_epi8(end - n, first(n), _mm512_maskz_compress_epi8(which, bytes));
    return n;
}

// Lists the escapes of a group before the ends of the lists.
template <uint16_t value_mask>
INLINE void put_escapes(__mmask64 which, const uint8_t* codes, uint8_t*& high_end,
                        uint8_t*& low_end) {
    const __m512i code = load(codes);
    if constexpr (value_mask == MASK_9) {  // high byte: bits 8..2 of the code; low: 1..0
        __mmask64 ninth;
        __builtin_memcpy(&ninth, codes + NINTH_BITS, sizeof ninth);
        const __m512i high =
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(code, 2), bytes_of(0x3F)),
                            _mm512_maskz_mov_epi8(ninth, bytes_of(0x40)));
        low_end -= put_before(low_end, which,
                              _mm512_and_si512(_mm512_slli_epi16(code, 6), bytes_of(0xC0)));
        high_end -= put_before(high_end, which, high);
    } else if constexpr (value_mask == MASK_6) {
        high_end -= put_before(high_end, which, _mm512_add_epi8(code, code));
    } else {
        high_end -= put_before(high_end, which, code);
    }
}

template <uint16_t value_mask, bool always_round>
void encode_form(const EncodeTables& tables, EncodeStream& stream, Fetcher& fetcher) {
    const __m512i low_bytes = words_of(0x00FF);
    __m512i lows[2], highs[2];
    for (uint32_t g = 0; g < 2; ++g) {
        lows[g] = bytes_of(FINAL_STATE & 0xFF);
        highs[g] = bytes_of(FINAL_STATE >> 8);
    }
    const uint64_t n_lanes = stream.n_steps * LANES;
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(stream.values) + 2 * n_lanes;
    uint8_t* to = stream.bytes_end;
    uint8_t* escapes_high = stream.escapes_high + n_lanes;
    uint8_t* escapes_low = stream.escapes_low + n_lanes;
    Fetcher ahead = fetcher;
    for (uint64_t step = stream.n_steps; step > 0; --step) {
        fetch(ahead);
        for (uint32_t g = 2; g-- > 0;) {
            codes -= GROUP_CODES;
            const __m512i symbol = symbols_of<value_mask>(tables, codes);
            const __mmask64 escapes = _mm512_cmpeq_epi8_mask(symbol, tables.escape);
            if (__builtin_expect(escapes != 0, 0))
                put_escapes<value_mask>(escapes, codes, escapes_high, escapes_low);

            // Where x / f >= 256 the low byte leaves first.
            const __m512i frequency = _mm512_permutexvar_epi8(symbol, tables.frequency);
            const __mmask64 leaves = _mm512_cmpge_epu8_mask(highs[g], frequency);
            to -= put_before(to, leaves, lows[g]);
            const __m512i low = _mm512_mask_mov_epi8(lows[g], leaves, highs[g]);
            const __m512i high = _mm512_maskz_mov_epi8(~leaves, highs[g]);

            // x and x / f of the even and the odd lanes, as 16-bit words.
            const __m512i even =
                _mm512_ternarylogic_epi64(low_bytes, low, _mm512_slli_epi16(high, 8), SELECT);
            const __m512i odd =
                _mm512_ternarylogic_epi64(low_bytes, _mm512_srli_epi16(low, 8), high, SELECT);
            __m512i rounded_even, rounded_odd;
            if constexpr (always_round) {
                rounded_even = _mm512_add_epi16(even, words_of(1));
                rounded_odd = _mm512_add_epi16(odd, words_of(1));
            } else {
                const __m512i rounding = _mm512_permutexvar_epi8(symbol, tables.rounding);
                rounded_even = _mm512_add_epi16(even, _mm512_and_si512(rounding, low_bytes));
                rounded_odd = _mm512_add_epi16(odd, _mm512_srli_epi16(rounding, 8));
            }
            // The permutation of words looks at bits 5..0 of its index: the even lane's symbol.
            const __m512i reciprocal_even =
                _mm512_permutex2var_epi16(tables.reciprocal[0], symbol, tables.reciprocal[1]);
            const __m512i reciprocal_odd = _mm512_permutex2var_epi16(
                tables.reciprocal[0], _mm512_srli_epi16(symbol, 8), tables.reciprocal[1]);
            const __m512i shift = _mm512_permutexvar_epi8(symbol, tables.shift);
            const __m512i quotient_even =
                _mm512_srlv_epi16(_mm512_mulhi_epu16(rounded_even, reciprocal_even),
                                  _mm512_and_si512(shift, low_bytes));
            const __m512i quotient_odd = _mm512_srlv_epi16(
                _mm512_mulhi_epu16(rounded_odd, reciprocal_odd), _mm512_srli_epi16(shift, 8));

            // C(s, x) = (x / f) << 8 | (x % f + cum) = x + (x / f) * (256 - f) + cum
            const __m512i gap = _mm512_sub_epi8(_mm512_setzero_si512(), frequency);
            const __m512i cum = _mm512_permutexvar_epi8(symbol, tables.cum);
            const __m512i new_even = _mm512_add_epi16(
                _mm512_add_epi16(even, _mm512_and_si512(cum, low_bytes)),
                _mm512_mullo_epi16(quotient_even, _mm512_and_si512(gap, low_bytes)));
            const __m512i new_odd =
                _mm512_add_epi16(_mm512_add_epi16(odd, _mm512_srli_epi16(cum, 8)),
                                 _mm512_mullo_epi16(quotient_odd, _mm512_srli_epi16(gap, 8)));
            const __m512i middle = _mm512_shrdi_epi16(new_even, new_odd, 8);
            lows[g] = _mm512_ternarylogic_epi64(low_bytes, new_even, middle, SELECT);
            highs[g] = _mm512_ternarylogic_epi64(low_bytes, middle, new_odd, SELECT);
        }
    }
    fetcher = ahead;
    stream.n_bytes = static_cast<uint64_t>(stream.bytes_end - to);
    stream.n_escapes = static_cast<uint64_t>(stream.escapes_high + n_lanes - escapes_high);
    __builtin_memmove(stream.escapes_high, escapes_high, stream.n_escapes);
    if constexpr (value_mask == MASK_9)
        __builtin_memmove(stream.escapes_low, escapes_low, stream.n_escapes);
    for (uint32_t g = 0; g < 2; ++g) {
        _mm512_storeu_si512(stream.states + g * 2 * GROUP_LANES, lows[g]);
        _mm512_storeu_si512(stream.states + g * 2 * GROUP_LANES + GROUP_LANES, highs[g]);
    }
}

void encode_stream(const FieldMap& map, const FrequencyTable& table, EncodeStream& stream,
                   Fetcher& fetcher) {
    // The codes of bytes are bytes, whatever bits they may have.
    const uint16_t value_mask = map.unit_bytes == 1 ? MASK_8 : map.value_mask;
    EncodeTables tables;
    build_tables(value_mask, table, tables);
    const bool round = tables.always_round;
    if (value_mask == MASK_8)
        (round ? encode_form<MASK_8, true> : encode_form<MASK_8, false>)(tables, stream, fetcher);
    else if (value_mask == MASK_9)
        (round ? encode_form<MASK_9, true> : encode_form<MASK_9, false>)(tables, stream, fetcher);
    else
        (round ? encode_form<MASK_6, true> : encode_form<MASK_6, false>)(tables, stream, fetcher);
}

}  // namespace

const Kernels AVX512_KERNELS = {
    "avx512",
    crc32_avx512,
    survey_words,
    split_steps,
    encode_stream,
    decode_streams,
    encode_token_steps_avx2,
    decode_token_steps_avx512,
    join_words_avx2,
};

}  // namespace wcodec
