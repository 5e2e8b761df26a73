// SPDX-License-Identifier: Apache-2.0
//
// A warp of 32 threads, on the GPU and on the host. Code written against this header is compiled by
// nvcc or NVRTC into a kernel, and by the C++ compiler into a function that runs the 32 threads one
// after the other, so that the kernel's own source is tested without a GPU and under sanitizers.
//
// The rule that makes one source possible: a variable that differs from thread to thread is a
// PerThread<T>; it is touched only inside each_thread(); and votes and shuffles stand between two
// each_thread() blocks. Plain variables are equal in all threads. On the GPU PerThread<T> is a
// register and each_thread() is nothing.
#pragma once

#if defined(__CUDACC__)
#define WCODEC_ON_GPU 1
#define WCODEC_INLINE __device__ __forceinline__
#define WCODEC_UNROLL _Pragma("unroll")
#else
#define WCODEC_ON_GPU 0
#define WCODEC_INLINE inline
#define WCODEC_UNROLL
#include <bit>
#include <cassert>
#include <cstring>
#endif

#if !defined(__CUDACC_RTC__)
#include <stdint.h>
#endif

namespace wcodec {

constexpr uint32_t WARP_THREADS = 32;

// ---- Threads ------------------------------------------------------------------------------------

template <class T>
struct PerThread {
#if WCODEC_ON_GPU
    T value;
    WCODEC_INLINE T& operator[](uint32_t) { return value; }
    WCODEC_INLINE const T& operator[](uint32_t) const { return value; }
#else
    T values[WARP_THREADS];
    T& operator[](uint32_t thread) { return values[thread]; }
    const T& operator[](uint32_t thread) const { return values[thread]; }
#endif
};

// Run `body(thread)` in every thread of the warp, or of the CTA.
template <class Body>
WCODEC_INLINE void each_thread(Body&& body) {
#if WCODEC_ON_GPU
    body(threadIdx.x);
#else
    for (uint32_t thread = 0; thread < WARP_THREADS; ++thread) body(thread);
#endif
}

// Make what the threads wrote to shared memory visible to each other.
WCODEC_INLINE void sync_warp() {
#if WCODEC_ON_GPU
    __syncwarp();
#endif
}

// Bit t is the flag of thread t.
WCODEC_INLINE uint32_t ballot(const PerThread<bool>& flag) {
#if WCODEC_ON_GPU
    return __ballot_sync(0xFFFFFFFFu, flag.value);
#else
    uint32_t mask = 0;
    for (uint32_t thread = 0; thread < WARP_THREADS; ++thread) {
        mask |= uint32_t(flag[thread]) << thread;
    }
    return mask;
#endif
}

WCODEC_INLINE bool any(const PerThread<bool>& flag) {
#if WCODEC_ON_GPU
    return __any_sync(0xFFFFFFFFu, flag.value);
#else
    return ballot(flag) != 0;
#endif
}

// The value of one thread, given to all.
WCODEC_INLINE uint32_t value_of(const PerThread<uint32_t>& value, uint32_t thread) {
#if WCODEC_ON_GPU
    return __shfl_sync(0xFFFFFFFFu, value.value, thread);
#else
    return value[thread];
#endif
}

// Each thread gets the value of the thread after it; the last keeps its own.
WCODEC_INLINE PerThread<uint32_t> from_next(const PerThread<uint32_t>& value) {
    PerThread<uint32_t> result;
#if WCODEC_ON_GPU
    result.value = __shfl_down_sync(0xFFFFFFFFu, value.value, 1);
#else
    for (uint32_t thread = 0; thread < WARP_THREADS; ++thread) {
        result[thread] = value[thread + 1 < WARP_THREADS ? thread + 1 : thread];
    }
#endif
    return result;
}

// Each thread gets the value of the thread `distance` before it; the first `distance` keep their
// own.
WCODEC_INLINE PerThread<uint32_t> from_before(const PerThread<uint32_t>& value, uint32_t distance) {
    PerThread<uint32_t> result;
#if WCODEC_ON_GPU
    result.value = __shfl_up_sync(0xFFFFFFFFu, value.value, distance);
#else
    for (uint32_t thread = 0; thread < WARP_THREADS; ++thread) {
        result[thread] = value[thread >= distance ? thread - distance : thread];
    }
#endif
    return result;
}

// Make the compiler keep a value that it would rather compute again at each use.
template <class T>
WCODEC_INLINE T kept(T value) {
#if WCODEC_ON_GPU
    if constexpr (sizeof(T) == 8) {
        asm volatile("" : "+l"(value));
    } else {
        asm volatile("" : "+r"(value));
    }
#endif
    return value;
}

// ---- Bits and bytes of one thread ---------------------------------------------------------------

// A ballot's bits of the threads before `thread`.
WCODEC_INLINE uint32_t threads_before(uint32_t thread) { return (1u << thread) - 1; }

// ... and of it.
WCODEC_INLINE uint32_t threads_through(uint32_t thread) { return (2u << thread) - 1; }

WCODEC_INLINE uint32_t population_count(uint32_t bits) {
#if WCODEC_ON_GPU
    return uint32_t(__popc(bits));
#else
    return uint32_t(std::popcount(bits));
#endif
}

// PRMT: byte i of the result is byte (selector >> 4 i & 7) of the eight bytes low, high.
WCODEC_INLINE uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if WCODEC_ON_GPU
    return __byte_perm(low, high, selector);
#else
    const uint64_t bytes = uint64_t(high) << 32 | low;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
        result |= uint32_t(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    }
    return result;
#endif
}

// IDP: the sum of the products of the bytes of a and b.
WCODEC_INLINE uint32_t dot_bytes(uint32_t a, uint32_t b) {
#if WCODEC_ON_GPU
    return __dp4a(a, b, 0u);
#else
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 32; i += 8) sum += (a >> i & 0xFF) * (b >> i & 0xFF);
    return sum;
#endif
}

// SHF: bits shift % 32 ... shift % 32 + 31 of the eight bytes low, high.
WCODEC_INLINE uint32_t shift_right(uint32_t low, uint32_t high, uint32_t shift) {
#if WCODEC_ON_GPU
    return __funnelshift_r(low, high, shift);
#else
    return uint32_t((uint64_t(high) << 32 | low) >> (shift & 31));
#endif
}

// LOP3: bits of b where mask is set, else of a. By name, since the compiler makes two instructions
// of a constant mask.
WCODEC_INLINE uint32_t merge_bits(uint32_t a, uint32_t b, uint32_t mask) {
#if WCODEC_ON_GPU
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xD8;" : "=r"(result) : "r"(a), "r"(b), "r"(mask));
    return result;
#else
    return (a & ~mask) | (b & mask);
#endif
}

// ---- Memory -------------------------------------------------------------------------------------

struct alignas(16) Bytes16 {
    uint32_t words[4];
};

// Load read-only global memory, at an address that is a multiple of the size.
template <class T>
WCODEC_INLINE T load(const uint8_t* from) {
#if WCODEC_ON_GPU
    if constexpr (sizeof(T) == sizeof(uint4)) {
        const uint4 value = __ldg(reinterpret_cast<const uint4*>(from));
        return T{{value.x, value.y, value.z, value.w}};
    } else {
        return __ldg(reinterpret_cast<const T*>(from));
    }
#else
    assert(reinterpret_cast<uintptr_t>(from) % sizeof(T) == 0);
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
#endif
}

// Begin to copy 16 bytes of read-only global memory into shared memory. Copies that a thread began
// since it last called it are a group for commit_copies(); wait_copies<N>() waits until no more
// than its N newest groups are under way. Other threads see them after a sync_warp(). What follows
// is fetched into the second-level cache on the way, since it will be asked for next.
WCODEC_INLINE void begin_copy(Bytes16* to, const uint8_t* from) {
#if WCODEC_ON_GPU
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;"
                 :
                 : "r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from)
                 : "memory");
#else
    *to = load<Bytes16>(from);
#endif
}

WCODEC_INLINE void commit_copies() {
#if WCODEC_ON_GPU
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <uint32_t N>
WCODEC_INLINE void wait_copies() {
#if WCODEC_ON_GPU
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// A word of an array in shared memory, by its offset in bytes.
template <uint32_t N>
WCODEC_INLINE uint32_t word_at(const uint32_t (&words)[N], uint32_t offset) {
#if WCODEC_ON_GPU
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const uint8_t*>(words) + offset);
#else
    assert(offset % 4 == 0 && offset / 4 < N);
    return words[offset / 4];
#endif
}

// A part of an array in shared memory, by its offset in bytes.
template <class T, uint32_t N>
WCODEC_INLINE T part_of(const Bytes16 (&pieces)[N], uint32_t offset) {
#if WCODEC_ON_GPU
    return *reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(pieces) + offset);
#else
    assert(offset % sizeof(T) == 0 && offset / sizeof(Bytes16) < N);
    T part;
    std::memcpy(&part, reinterpret_cast<const uint8_t*>(pieces) + offset, sizeof part);
    return part;
#endif
}

// An element of an array in shared memory.
template <class T, uint32_t N>
WCODEC_INLINE T& element(T (&array)[N], uint32_t i) {
#if !WCODEC_ON_GPU
    assert(i < N);
#endif
    return array[i];
}

// Store to global memory, at an address that is a multiple of the size.
template <class T>
WCODEC_INLINE void store(uint8_t* to, T value) {
#if WCODEC_ON_GPU
    __builtin_assume(__isGlobal(to));
    *reinterpret_cast<T*>(to) = value;
#else
    assert(reinterpret_cast<uintptr_t>(to) % sizeof(T) == 0);
    std::memcpy(to, &value, sizeof value);
#endif
}

// Store the low bytes of a word, whatever the address.
template <uint32_t N_BYTES>
WCODEC_INLINE void store_any(uint8_t* to, uint32_t word) {
    if (reinterpret_cast<uintptr_t>(to) % N_BYTES != 0) {
        for (uint32_t i = 0; i < N_BYTES; ++i) store(to + i, uint8_t(word >> 8 * i));
    } else if constexpr (N_BYTES == 1) {
        store(to, uint8_t(word));
    } else if constexpr (N_BYTES == 2) {
        store(to, uint16_t(word));
    } else {
        store(to, word);
    }
}

// Load what the warp has stored to global memory, at an address that is a multiple of the size.
template <class T>
WCODEC_INLINE T load_stored(const uint8_t* from) {
#if WCODEC_ON_GPU
    __builtin_assume(__isGlobal(from));
    return *reinterpret_cast<const T*>(from);
#else
    assert(reinterpret_cast<uintptr_t>(from) % sizeof(T) == 0);
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
#endif
}

// ... of the low bytes of a word, whatever the address.
template <uint32_t N_BYTES>
WCODEC_INLINE uint32_t load_any(const uint8_t* from) {
    if (reinterpret_cast<uintptr_t>(from) % N_BYTES != 0) {
        uint32_t word = 0;
        for (uint32_t i = 0; i < N_BYTES; ++i)
            word |= uint32_t(load_stored<uint8_t>(from + i)) << 8 * i;
        return word;
    } else if constexpr (N_BYTES == 1) {
        return load_stored<uint8_t>(from);
    } else if constexpr (N_BYTES == 2) {
        return load_stored<uint16_t>(from);
    } else {
        return load_stored<uint32_t>(from);
    }
}

}  // namespace wcodec
