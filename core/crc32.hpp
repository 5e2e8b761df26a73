// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 of zlib and PNG (reflected polynomial 0xEDB88320).
#pragma once

#include <cstddef>
#include <cstdint>

namespace wcodec {

// CRC of `data` continued from `start`, the CRC of the bytes before it (0 for none).
uint32_t crc32_scalar(const uint8_t* data, size_t size, uint32_t start);
uint32_t crc32_avx2(const uint8_t* data, size_t size, uint32_t start);
uint32_t crc32_avx2_vpclmul(const uint8_t* data, size_t size, uint32_t start);
uint32_t crc32_avx512(const uint8_t* data, size_t size, uint32_t start);
uint32_t crc32_neon(const uint8_t* data, size_t size, uint32_t start);

// CRC of two byte strings one after the other, from their CRCs and the size of the second.
uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t second_bytes);

}  // namespace wcodec
