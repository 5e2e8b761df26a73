// SPDX-License-Identifier: Apache-2.0
//
// What became of a block. The core never throws, prints or aborts: every entry returns one of
// these, and the Python side turns it into an exception that names the layer and the block
// (STATUS_TEXTS gives the sentence).
#pragma once

#include <cstdint>

namespace wcodec {

enum class Status : uint32_t {
    OK = 0,
    HEADER_MISMATCH,
    CRC_MISMATCH,
    PADDING_NOT_ZERO,
    RESERVED_NOT_ZERO,
    BAD_CODING,
    BAD_FORM,
    BAD_N_STREAMS,
    BAD_PAYLOAD_BYTES,
    BAD_FREQUENCY_TABLE,
    BAD_STREAM_SIZE,
    BAD_STARTING_STATE,
    STREAM_NOT_CONSUMED,
    BAD_FINAL_STATE,
    BAD_TOKEN_STREAM,
    BAD_TILES,
    BAD_RAW_BITS,
    BAD_CODE,
    BAD_CLASSES,
    VERIFY_FAILED,
    COUNT,
};

constexpr const char* STATUS_TEXTS[static_cast<uint32_t>(Status::COUNT)] = {
    "ok",
    "its header is not the one in the directory",
    "its CRC-32 is wrong",
    "padding is not zero",
    "a reserved field is not zero",
    "its coding is neither raw, constant nor the family of the layer",
    "its form does not fit the layer",
    "its number of streams is not 1, 2 or 4",
    "payload_bytes is not the size of its contents",
    "its frequency table is invalid",
    "a stream claims more bytes or escapes than it has units",
    "a starting state is below 0x0100",
    "a stream has bytes or escapes left over or too few",
    "a final state is not 0x0100",
    "the size of a stream is not one of 32 states and whole words",
    "its tiles have a size, predictor, transform or table that there is not",
    "its raw bits are not those that its tokens ask for",
    "its code or its alphabet is out of range",
    "its tables or classes are out of range",
    "decoding it again gave other data (or something writes to the tensor)",
};

}  // namespace wcodec
