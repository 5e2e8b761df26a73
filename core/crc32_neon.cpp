// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 by carry-less multiplication of 128-bit registers (PMULL): crc32_avx2.cpp with eight
// registers of 16 bytes. Built with ISA flags.
#include <arm_neon.h>

#include "crc32.hpp"
#include "crc32_fold.hpp"

namespace wcodec {
namespace {

constexpr size_t N_HELD = 8;
constexpr size_t TURN_BYTES = 16 * N_HELD;

inline uint64x2_t load(const uint8_t* from) { return vreinterpretq_u64_u8(vld1q_u8(from)); }

// `held` moved on by the fold's distance, and `next` added.
inline uint64x2_t fold_on(uint64x2_t held, CrcFold fold, uint64x2_t next) {
    const poly64x2_t multiplicand = vreinterpretq_p64_u64(held);
    const poly64x2_t multiplier = {fold.first, fold.second};
    const poly128_t first =
        vmull_p64(vgetq_lane_p64(multiplicand, 0), vgetq_lane_p64(multiplier, 0));
    const poly128_t second = vmull_high_p64(multiplicand, multiplier);
    return veorq_u64(veorq_u64(vreinterpretq_u64_p128(first), vreinterpretq_u64_p128(second)),
                     next);
}

}  // namespace

uint32_t crc32_neon(const uint8_t* data, size_t size, uint32_t start) {
    if (size < TURN_BYTES) return crc32_scalar(data, size, start);
    constexpr CrcFold FOLD_TURN = crc32_fold(8 * TURN_BYTES);
    constexpr CrcFold FOLD_128 = crc32_fold(128);

    uint64x2_t held[N_HELD];
    for (size_t i = 0; i < N_HELD; ++i) held[i] = load(data + 16 * i);
    held[0] = veorq_u64(held[0], vsetq_lane_u64(~start, vdupq_n_u64(0), 0));
    data += TURN_BYTES;
    size -= TURN_BYTES;
    for (; size >= TURN_BYTES; data += TURN_BYTES, size -= TURN_BYTES)
        for (size_t i = 0; i < N_HELD; ++i)
            held[i] = fold_on(held[i], FOLD_TURN, load(data + 16 * i));
    uint64x2_t rest = held[0];
    for (size_t i = 1; i < N_HELD; ++i) rest = fold_on(rest, FOLD_128, held[i]);
    for (; size >= 16; data += 16, size -= 16) rest = fold_on(rest, FOLD_128, load(data));
    // The register of a CRC starts at ~start: here at 0, the start is in `rest` already.
    uint8_t last[16];
    vst1q_u8(last, vreinterpretq_u8_u64(rest));
    return crc32_scalar(data, size, crc32_scalar(last, sizeof last, ~uint32_t(0)));
}

}  // namespace wcodec
