// SPDX-License-Identifier: Apache-2.0
//
// CRC-32, eight bytes a turn (slicing by 8: Kounavis and Berry, "A Systematic Approach to Building
// High Performance Software-Based CRC Generators", 2005), and the combination of two CRCs by
// multiplication with x^(8 n) modulo the polynomial.
#include "crc32.hpp"

#include <array>

#include "bytes.hpp"

namespace wcodec {
namespace {

constexpr uint32_t POLYNOMIAL = 0xEDB88320u;

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// TABLES[k][b]: the CRC of byte b followed by k zero bytes, without the start and final XOR.
constexpr Tables make_tables() {
    Tables tables{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
        tables[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; ++b)
        for (size_t k = 1; k < 8; ++k)
            tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xFF];
    return tables;
}

constexpr Tables TABLES = make_tables();

// a * b modulo the polynomial; bit 31 is the coefficient of x^0, as in the reflected CRC register.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b >> 1) ^ ((b & 1) ? POLYNOMIAL : 0);
    }
    return product;
}

}  // namespace

uint32_t crc32_scalar(const uint8_t* data, size_t size, uint32_t start) {
    uint32_t crc = ~start;
    for (; size >= 8; data += 8, size -= 8) {
        const uint64_t word = read_as<uint64_t>(data) ^ crc;
        crc = TABLES[7][word & 0xFF] ^ TABLES[6][word >> 8 & 0xFF] ^ TABLES[5][word >> 16 & 0xFF] ^
              TABLES[4][word >> 24 & 0xFF] ^ TABLES[3][word >> 32 & 0xFF] ^
              TABLES[2][word >> 40 & 0xFF] ^ TABLES[1][word >> 48 & 0xFF] ^ TABLES[0][word >> 56];
    }
    for (; size > 0; ++data, --size) crc = (crc >> 8) ^ TABLES[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t second_bytes) {
    uint32_t power = 0x80000000u >> 8;  // x^8: one byte
    uint32_t shift = 0x80000000u;       // x^0
    for (; second_bytes != 0; second_bytes >>= 1) {
        if (second_bytes & 1) shift = multiply(shift, power);
        power = multiply(power, power);
    }
    return multiply(shift, first) ^ second;
}

}  // namespace wcodec
