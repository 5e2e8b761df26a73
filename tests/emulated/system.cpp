// SPDX-License-Identifier: Apache-2.0
//
// What the checks need where there is no system: memory functions and output.
#include <stddef.h>
#include <stdint.h>

#include <new>

namespace {

void write_port(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

constexpr uint16_t DEBUG_PORT = 0xE9;  // what is written there Bochs prints
constexpr uint16_t POWER_PORT = 0x8900;

}  // namespace

// std::stable_sort asks for a buffer, and does without.
const std::nothrow_t std::nothrow;
void* operator new(size_t, const std::nothrow_t&) noexcept { return nullptr; }
void operator delete(void*, size_t) noexcept {}

extern "C" {

void* memcpy(void* to, const void* from, size_t n) {
    void* at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void* memset(void* to, int value, size_t n) {
    void* at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
    return to;
}

// A loop: Bochs copies whole pieces where `rep movsb` goes byte by byte.
void* memmove(void* to, const void* from, size_t n) {
    auto* left = static_cast<volatile uint8_t*>(to);
    const auto* right = static_cast<const uint8_t*>(from);
    if (left <= right)
        for (size_t i = 0; i < n; ++i) left[i] = right[i];
    else
        for (size_t i = n; i-- > 0;) left[i] = right[i];
    return to;
}

int memcmp(const void* a, const void* b, size_t n) {
    const auto* left = static_cast<const uint8_t*>(a);
    const auto* right = static_cast<const uint8_t*>(b);
    for (size_t i = 0; i < n; ++i)
        if (left[i] != right[i]) return left[i] - right[i];
    return 0;
}

int puts(const char* text) {
    for (; *text; ++text) write_port(DEBUG_PORT, static_cast<uint8_t>(*text));
    write_port(DEBUG_PORT, '\n');
    return 0;
}

void power_off() {
    for (const char* c = "Shutdown"; *c; ++c) write_port(POWER_PORT, static_cast<uint8_t>(*c));
}
}
