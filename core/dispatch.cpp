// SPDX-License-Identifier: Apache-2.0
//
// Which backend runs: the list, best first, and the choice. bindings.cpp chooses once at import
// (WCODEC_BACKEND, else the first).
#include <atomic>
#include <cstring>

#include "kernels.hpp"

namespace wcodec {
namespace {

constexpr const Kernels* BACKENDS[] = {&SCALAR_KERNELS};

std::atomic<const Kernels*> chosen{&SCALAR_KERNELS};

}  // namespace

const Kernels* const* available_backends(size_t& n) {
    n = sizeof BACKENDS / sizeof BACKENDS[0];
    return BACKENDS;
}

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

bool use_backend(const char* name) {
    for (const Kernels* backend : BACKENDS) {
        if (std::strcmp(backend->name, name) != 0) continue;
        chosen.store(backend, std::memory_order_relaxed);
        return true;
    }
    return false;
}

}  // namespace wcodec
