// SPDX-License-Identifier: Apache-2.0
//
// The GPU decoder with its threads emulated on the host. As a shared library it offers
// emulate_streams() and emulate_copy() to ctypes. With EMULATED_WARP_MAIN it is a program for the
// sanitizers: it decodes the cases of its standard input, each from a payload and into an output of
// its own, of exactly their sizes, and writes the statuses and the outputs.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "copy_block.hpp"
#include "rans16_warp.hpp"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

template <uint32_t FORM>
uint32_t emulate_stream(const wcodec::StreamDescriptor& stream) {
    wcodec::WarpShared<FORM> shared;
    std::memset(&shared, 0xA5, sizeof shared);
    wcodec::StreamDecoder<FORM> decoder(stream, shared);
    return decoder.decode();
}

using Emulate = uint32_t (*)(const wcodec::StreamDescriptor&);
constexpr Emulate EMULATE[wcodec::N_FORMS] = {
    nullptr,
    emulate_stream<1>,
    emulate_stream<2>,
    emulate_stream<3>,
    emulate_stream<4>,
    emulate_stream<5>,
    emulate_stream<6>,
    emulate_stream<7>,
    emulate_stream<8>,
    emulate_stream<9>,
    emulate_stream<10>,
    emulate_stream<11>,
    emulate_stream<12>,
    emulate_stream<13>,
    emulate_stream<14>,
};

}  // namespace

EXPORTED void emulate_streams(uint32_t form, uint32_t n_streams,
                              const wcodec::StreamDescriptor* streams, uint32_t* status) {
    for (uint32_t i = 0; i < n_streams; ++i) status[i] = EMULATE[form](streams[i]);
}

EXPORTED void emulate_copy(const wcodec::CopyDescriptor* block, uint32_t n_threads) {
    for (uint32_t thread = 0; thread < n_threads; ++thread) {
        wcodec::copy_block(*block, thread, n_threads);
    }
}

#if defined(EMULATED_WARP_MAIN)
namespace {

// A case: this, the descriptors (payload 0, output counted from output_offset), the payload.
// Answered by the statuses and the whole output, which is 0xA5 where nothing was stored.
struct Case {
    uint32_t form;
    uint32_t n_streams;
    uint64_t payload_bytes;
    uint64_t output_bytes;
    uint64_t output_offset;  // from a multiple of 64
};

void require(bool condition) {
    if (!condition) std::abort();
}

}  // namespace

int main() {
    Case c;
    while (std::fread(&c, sizeof c, 1, stdin) == 1) {
        std::vector<wcodec::StreamDescriptor> streams(c.n_streams);
        void* payload = nullptr;
        void* output = nullptr;
        require(posix_memalign(&payload, 16, c.payload_bytes) == 0);
        require(posix_memalign(&output, 64, c.output_offset + c.output_bytes) == 0);
        require(std::fread(streams.data(), sizeof streams[0], c.n_streams, stdin) == c.n_streams);
        require(std::fread(payload, 1, c.payload_bytes, stdin) == c.payload_bytes);
        uint8_t* const begin = static_cast<uint8_t*>(output) + c.output_offset;
        std::memset(output, 0xA5, c.output_offset + c.output_bytes);
        for (wcodec::StreamDescriptor& stream : streams) {
            stream.payload = reinterpret_cast<uintptr_t>(payload);
            stream.output += reinterpret_cast<uintptr_t>(begin);
        }
        std::vector<uint32_t> status(c.n_streams);
        emulate_streams(c.form, c.n_streams, streams.data(), status.data());
        std::fwrite(status.data(), sizeof status[0], c.n_streams, stdout);
        std::fwrite(begin, 1, c.output_bytes, stdout);
        std::free(payload);
        std::free(output);
    }
    return 0;
}
#endif
