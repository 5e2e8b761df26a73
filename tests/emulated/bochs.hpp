// SPDX-License-Identifier: Apache-2.0
//
// Included before the kernels of AVX-512 where they are run by Bochs, whose version 2.7 gives zeros
// for VPCOMPRESSB of all 64 bytes.
#pragma once

#include <immintrin.h>

__attribute__((always_inline)) inline __m512i compress_bytes(__mmask64 which, __m512i bytes) {
    return which == ~__mmask64{0} ? bytes : _mm512_maskz_compress_epi8(which, bytes);
}
#define _mm512_maskz_compress_epi8 compress_bytes
