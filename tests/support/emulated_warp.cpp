// SPDX-License-Identifier: Apache-2.0
//
// The GPU decoder with its threads emulated on the host. As a shared library it offers
// emulate_streams(), emulate_rans32(), emulate_spatial() and emulate_copy() to ctypes. With
// EMULATED_WARP_MAIN it is a program for the sanitizers: it decodes the cases of its standard
// input, each from a payload and into an output of its own, of exactly their sizes, and writes the
// statuses and the outputs.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "copy_block.hpp"
#include "rans16_warp.hpp"
#include "rans32_warp.hpp"
#include "spatial_warp.hpp"

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

template <uint32_t UNIT_BYTES>
uint32_t emulate_block(const wcodec::Rans32Descriptor& block) {
    wcodec::Rans32Shared<UNIT_BYTES> shared;
    std::memset(&shared, 0xA5, sizeof shared);
    wcodec::Rans32Decoder<UNIT_BYTES> decoder(block, shared);
    return decoder.decode();
}

template <uint32_t UNIT_BYTES>
uint32_t emulate_spatial_block(const wcodec::SpatialDescriptor& block) {
    wcodec::SpatialShared shared;
    std::memset(&shared, 0xA5, sizeof shared);
    wcodec::SpatialDecoder<UNIT_BYTES> decoder(block, shared);
    return decoder.decode();
}

}  // namespace

EXPORTED void emulate_streams(uint32_t form, uint32_t n_streams,
                              const wcodec::StreamDescriptor* streams, uint32_t* status) {
    for (uint32_t i = 0; i < n_streams; ++i) status[i] = EMULATE[form](streams[i]);
}

EXPORTED void emulate_rans32(uint32_t unit_bytes, uint32_t n_blocks,
                             const wcodec::Rans32Descriptor* blocks, uint32_t* status) {
    const auto emulate = unit_bytes == 1   ? emulate_block<1>
                         : unit_bytes == 2 ? emulate_block<2>
                         : unit_bytes == 4 ? emulate_block<4>
                                           : emulate_block<8>;
    for (uint32_t i = 0; i < n_blocks; ++i) status[i] = emulate(blocks[i]);
}

EXPORTED void emulate_spatial(uint32_t unit_bytes, uint32_t n_blocks,
                              const wcodec::SpatialDescriptor* blocks, uint32_t* status) {
    const auto emulate = unit_bytes == 1   ? emulate_spatial_block<1>
                         : unit_bytes == 2 ? emulate_spatial_block<2>
                                           : emulate_spatial_block<4>;
    for (uint32_t i = 0; i < n_blocks; ++i) status[i] = emulate(blocks[i]);
}

EXPORTED void emulate_copy(const wcodec::CopyDescriptor* block, uint32_t n_threads) {
    for (uint32_t thread = 0; thread < n_threads; ++thread) {
        wcodec::copy_block(*block, thread, n_threads);
    }
}

#if defined(EMULATED_WARP_MAIN)
namespace {

// A case: this, the descriptors (payload and parameters 0, output counted from output_offset), the
// payload, and for rans32 and spatial the parameters. Answered by the statuses and the whole
// output, which is 0xA5 where nothing was stored.
struct Case {
    uint32_t coding;
    uint32_t kernel;  // the form of rans16, the unit_bytes of the others
    uint64_t n_descriptors;
    uint64_t payload_bytes;
    uint64_t parameter_bytes;
    uint64_t output_bytes;
    uint64_t output_offset;  // from a multiple of 64
};

void require(bool condition) {
    if (!condition) std::abort();
}

// Memory of exactly this size.
uint8_t* allocate(uint64_t size, uint64_t alignment) {
    void* memory = nullptr;
    require(posix_memalign(&memory, alignment, size) == 0);
    return static_cast<uint8_t*>(memory);
}

uint8_t* read(uint64_t size) {
    uint8_t* const memory = allocate(size, 16);
    require(std::fread(memory, 1, size, stdin) == size);
    return memory;
}

}  // namespace

int main() {
    Case c;
    while (std::fread(&c, sizeof c, 1, stdin) == 1) {
        const bool is_rans32 = c.coding == wcodec::CODING_RANS32;
        const bool is_spatial = c.coding == wcodec::CODING_SPATIAL;
        uint8_t* const descriptors =
            read(c.n_descriptors * (is_rans32    ? sizeof(wcodec::Rans32Descriptor)
                                    : is_spatial ? sizeof(wcodec::SpatialDescriptor)
                                                 : sizeof(wcodec::StreamDescriptor)));
        uint8_t* const payload = read(c.payload_bytes);
        uint8_t* const parameters = read(c.parameter_bytes);
        uint8_t* const output = allocate(c.output_offset + c.output_bytes, 64);
        uint8_t* const begin = output + c.output_offset;
        std::memset(output, 0xA5, c.output_offset + c.output_bytes);
        const auto place = [&](auto& descriptor) {
            descriptor.payload = reinterpret_cast<uintptr_t>(payload);
            descriptor.output += reinterpret_cast<uintptr_t>(begin);
        };
        std::vector<uint32_t> status(c.n_descriptors);
        const auto decode_blocks = [&](auto* blocks, auto emulate) {
            for (uint64_t i = 0; i < c.n_descriptors; ++i) {
                place(blocks[i]);
                blocks[i].parameters += reinterpret_cast<uintptr_t>(parameters);
            }
            emulate(c.kernel, uint32_t(c.n_descriptors), blocks, status.data());
        };
        if (is_rans32) {
            decode_blocks(reinterpret_cast<wcodec::Rans32Descriptor*>(descriptors), emulate_rans32);
        } else if (is_spatial) {
            decode_blocks(reinterpret_cast<wcodec::SpatialDescriptor*>(descriptors),
                          emulate_spatial);
        } else {
            auto* const streams = reinterpret_cast<wcodec::StreamDescriptor*>(descriptors);
            for (uint64_t i = 0; i < c.n_descriptors; ++i) place(streams[i]);
            emulate_streams(c.kernel, uint32_t(c.n_descriptors), streams, status.data());
        }
        std::fwrite(status.data(), sizeof status[0], c.n_descriptors, stdout);
        std::fwrite(begin, 1, c.output_bytes, stdout);
        for (uint8_t* memory : {descriptors, payload, parameters, output}) std::free(memory);
    }
    return 0;
}
#endif
