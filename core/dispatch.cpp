// SPDX-License-Identifier: Apache-2.0
//
// Which backend runs: the list, best first, and the choice. bindings.cpp chooses once at import
// (WCODEC_BACKEND, else the first).
// On x86-64 a backend needs the processor's word for its instructions (CPUID) and the system's that
// it saves their registers (XCR0). On aarch64 NEON is always there, and the system names the rest.
#include <atomic>
#include <cstring>

#include "crc32.hpp"
#include "kernels.hpp"

#if defined(WCODEC_X86_64)
#include <cpuid.h>
#elif defined(WCODEC_AARCH64) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace wcodec {
namespace {

#if defined(WCODEC_X86_64)

constexpr uint32_t bit(unsigned n) { return uint32_t(1) << n; }

// CPUID leaf 1, ECX.
constexpr uint32_t PCLMULQDQ = bit(1);
constexpr uint32_t POPCNT = bit(23);
constexpr uint32_t OSXSAVE = bit(27);
constexpr uint32_t AVX = bit(28);
// CPUID leaf 7, EBX and ECX.
constexpr uint32_t BMI1 = bit(3);
constexpr uint32_t AVX2 = bit(5);
constexpr uint32_t BMI2 = bit(8);
constexpr uint32_t AVX512F = bit(16);
constexpr uint32_t AVX512DQ = bit(17);
constexpr uint32_t AVX512BW = bit(30);
constexpr uint32_t AVX512VL = bit(31);
constexpr uint32_t AVX512VBMI = bit(1);
constexpr uint32_t AVX512VBMI2 = bit(6);
constexpr uint32_t VPCLMULQDQ = bit(10);
constexpr uint32_t AVX512VPOPCNTDQ = bit(14);
// XCR0: registers that the system saves.
constexpr uint32_t XMM_YMM = bit(1) | bit(2);
constexpr uint32_t MASKS_ZMM = bit(5) | bit(6) | bit(7);

struct Features {
    bool avx2 = false;
    bool avx2_vpclmul = false;
    bool avx512 = false;
};

constexpr bool all(uint32_t found, uint32_t needed) { return (found & needed) == needed; }

Features detect() {
    Features features;
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return features;
    if (!all(ecx, OSXSAVE | AVX | POPCNT | PCLMULQDQ)) return features;
    uint32_t xcr0, xcr0_high;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if (!all(xcr0, XMM_YMM)) return features;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
    features.avx2 = all(ebx, AVX2 | BMI1 | BMI2);
    features.avx2_vpclmul = features.avx2 && all(ecx, VPCLMULQDQ);
    features.avx512 = features.avx2 && all(xcr0, MASKS_ZMM) &&
                      all(ebx, AVX512F | AVX512DQ | AVX512BW | AVX512VL) &&
                      all(ecx, AVX512VBMI | AVX512VBMI2 | VPCLMULQDQ | AVX512VPOPCNTDQ);
    return features;
}

#elif defined(WCODEC_AARCH64)

bool has_pmull() {
#if defined(__APPLE__)
    return true;
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_PMULL) != 0;
#else
    return false;
#endif
}

#endif

struct Backends {
    const Kernels* list[4];
    size_t n = 0;
#if defined(WCODEC_X86_64)
    Kernels avx2_vpclmul = AVX2_KERNELS;  // with another CRC
#elif defined(WCODEC_AARCH64)
    Kernels neon = NEON_KERNELS;  // with the CRC that the processor can do
#endif

    Backends() {
#if defined(WCODEC_X86_64)
        const Features features = detect();
        if (features.avx512) list[n++] = &AVX512_KERNELS;
        avx2_vpclmul.name = "avx2_vpclmul";
        avx2_vpclmul.crc32 = crc32_avx2_vpclmul;
        if (features.avx2_vpclmul) list[n++] = &avx2_vpclmul;
        if (features.avx2) list[n++] = &AVX2_KERNELS;
#elif defined(WCODEC_AARCH64)
        if (!has_pmull()) neon.crc32 = crc32_scalar;
        list[n++] = &neon;
#endif
        list[n++] = &SCALAR_KERNELS;
    }
};

const Backends& backends() {
    static const Backends found;
    return found;
}

std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> kernels{backends().list[0]};
    return kernels;
}

}  // namespace

const Kernels* const* available_backends(size_t& n) {
    n = backends().n;
    return backends().list;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

bool use_backend(const char* name) {
    for (size_t i = 0; i < backends().n; ++i) {
        if (std::strcmp(backends().list[i]->name, name) != 0) continue;
        chosen().store(backends().list[i], std::memory_order_relaxed);
        return true;
    }
    return false;
}

}  // namespace wcodec
