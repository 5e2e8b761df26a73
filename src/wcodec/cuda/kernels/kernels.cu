// SPDX-License-Identifier: Apache-2.0
//
// The entry points of the GPU decoder: wcodec_rans16_FORM, a stream of that form for each CTA,
// wcodec_rans32_wN, a rans32 block of units of N bytes for each CTA, and wcodec_copy_blocks, a raw
// or constant block, or one that is moved, for each CTA. Descriptors, payloads and outputs are in
// device memory; nothing is allocated and nothing waits for the host, so that launches can be
// captured in a graph. status[i] gets the STATUS_ bits of streams[i] or blocks[i]: 0 is good.
//
// A CTA is one warp. Then blockIdx, and with it the descriptor and every branch of the decoder, is
// the same for all threads in the compiler's eyes too, and the hardware balances streams of
// different length. 32 CTAs, the most a multiprocessor holds, are enough warps to keep it busy.
#include "copy_block.hpp"
#include "rans16_warp.hpp"
#include "rans32_warp.hpp"
#include "spatial_warp.hpp"

namespace wcodec {

// All of sm_75 to sm_120 can hold so many; at 64 registers or fewer 32 fit where the chip has room.
constexpr uint32_t MIN_CTAS = 16;
// Tables fill shared memory: an H200 has room for 13 of them.
constexpr uint32_t RANS32_MIN_CTAS = 8;
constexpr uint32_t SPATIAL_MIN_CTAS = 16;
constexpr uint32_t COPY_THREADS = 256;

template <uint32_t FORM>
__device__ __forceinline__ void decode_stream(const StreamDescriptor* streams, uint32_t* status) {
    __shared__ WarpShared<FORM> shared;
    StreamDecoder<FORM> decoder(streams[blockIdx.x], shared);
    const uint32_t result = decoder.decode();
    if (threadIdx.x == 0) status[blockIdx.x] = result;
}

template <uint32_t UNIT_BYTES>
__device__ __forceinline__ void decode_rans32(const Rans32Descriptor* blocks, uint32_t* status) {
    __shared__ Rans32Shared<UNIT_BYTES> shared;
    Rans32Decoder<UNIT_BYTES> decoder(blocks[blockIdx.x], shared);
    const uint32_t result = decoder.decode();
    if (threadIdx.x == 0) status[blockIdx.x] = result;
}

template <uint32_t UNIT_BYTES>
__device__ __forceinline__ void decode_spatial(const SpatialDescriptor* blocks, uint32_t* status) {
    __shared__ SpatialShared shared;
    SpatialDecoder<UNIT_BYTES> decoder(blocks[blockIdx.x], shared);
    const uint32_t result = decoder.decode();
    if (threadIdx.x == 0) status[blockIdx.x] = result;
}

}  // namespace wcodec

#define WCODEC_RANS16_KERNEL(name, form)                                                  \
    extern "C" __global__ void __launch_bounds__(wcodec::WARP_THREADS, wcodec::MIN_CTAS)  \
        wcodec_rans16_##name(const wcodec::StreamDescriptor* streams, uint32_t* status) { \
        wcodec::decode_stream<wcodec::form>(streams, status);                             \
    }

WCODEC_RANS16_KERNEL(bf16_e8, FORM_BF16_E8)
WCODEC_RANS16_KERNEL(bf16_e8m1, FORM_BF16_E8M1)
WCODEC_RANS16_KERNEL(fp16_e5m1, FORM_FP16_E5M1)
WCODEC_RANS16_KERNEL(fp32_e8, FORM_FP32_E8)
WCODEC_RANS16_KERNEL(fp32_e8m1, FORM_FP32_E8M1)
WCODEC_RANS16_KERNEL(fp32_e8_z13, FORM_FP32_E8_Z13)
WCODEC_RANS16_KERNEL(fp32_e8m1_z13, FORM_FP32_E8M1_Z13)
WCODEC_RANS16_KERNEL(fp32_e8_z16, FORM_FP32_E8_Z16)
WCODEC_RANS16_KERNEL(fp32_e8m1_z16, FORM_FP32_E8M1_Z16)
WCODEC_RANS16_KERNEL(int8_t4, FORM_INT8_T4)
WCODEC_RANS16_KERNEL(int8_t5, FORM_INT8_T5)
WCODEC_RANS16_KERNEL(int8_t6, FORM_INT8_T6)
WCODEC_RANS16_KERNEL(int8_t8, FORM_INT8_T8)
WCODEC_RANS16_KERNEL(fp8_t5, FORM_FP8_T5)

#define WCODEC_RANS32_KERNEL(name, unit_bytes)                                                  \
    extern "C" __global__ void __launch_bounds__(wcodec::WARP_THREADS, wcodec::RANS32_MIN_CTAS) \
        wcodec_rans32_##name(const wcodec::Rans32Descriptor* blocks, uint32_t* status) {        \
        wcodec::decode_rans32<unit_bytes>(blocks, status);                                      \
    }

WCODEC_RANS32_KERNEL(w1, 1)
WCODEC_RANS32_KERNEL(w2, 2)
WCODEC_RANS32_KERNEL(w4, 4)
WCODEC_RANS32_KERNEL(w8, 8)

#define WCODEC_SPATIAL_KERNEL(name, unit_bytes)                                                  \
    extern "C" __global__ void __launch_bounds__(wcodec::WARP_THREADS, wcodec::SPATIAL_MIN_CTAS) \
        wcodec_spatial_##name(const wcodec::SpatialDescriptor* blocks, uint32_t* status) {       \
        wcodec::decode_spatial<unit_bytes>(blocks, status);                                      \
    }

WCODEC_SPATIAL_KERNEL(w1, 1)
WCODEC_SPATIAL_KERNEL(w2, 2)
WCODEC_SPATIAL_KERNEL(w4, 4)

extern "C" __global__ void __launch_bounds__(wcodec::COPY_THREADS)
    wcodec_copy_blocks(const wcodec::CopyDescriptor* blocks) {
    wcodec::copy_block(blocks[blockIdx.x], threadIdx.x, wcodec::COPY_THREADS);
}
