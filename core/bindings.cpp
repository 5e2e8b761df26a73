// SPDX-License-Identifier: Apache-2.0
//
// The Python module wcodec._core: the only file that includes nanobind. Everything that comes from
// Python is checked here (sizes, bounds of every block in its buffers), memory is taken here, and
// the GIL is released around the work. Used by codec/batch.py and checksum.py alone.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "crc32.hpp"
#include "pool.hpp"
#include "tile_choice.hpp"

namespace nb = nanobind;
using namespace wcodec;

namespace {

// A contiguous view of any object with the buffer protocol.
class Buffer {
public:
    Buffer(nb::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    ~Buffer() { PyBuffer_Release(&view_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint8_t* data() const { return static_cast<uint8_t*>(view_.buf); }
    uint64_t size() const { return static_cast<uint64_t>(view_.len); }

    template <typename T>
    T* array(size_t& n, const char* name) const {
        if (size() % sizeof(T) != 0 || reinterpret_cast<uintptr_t>(view_.buf) % alignof(T) != 0)
            throw std::invalid_argument(std::string(name) + ": size or alignment is wrong");
        n = static_cast<size_t>(size() / sizeof(T));
        return static_cast<T*>(view_.buf);
    }

private:
    Py_buffer view_;
};

struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Free>;

Memory allocate(size_t size) {
    Memory memory(
        static_cast<uint8_t*>(std::aligned_alloc(64, align_up(size == 0 ? 1 : size, 64))));
    if (!memory) throw std::bad_alloc();
    return memory;
}

// Scratch memory for a call. A moderate one is kept for the next call of the thread: new pages cost
// as much as coding a few blocks.
uint8_t* scratch_memory(size_t size, Memory& of_this_call) {
    constexpr size_t MAX_KEPT_BYTES = size_t(16) << 20;
    if (size > MAX_KEPT_BYTES) {
        of_this_call = allocate(size);
        return of_this_call.get();
    }
    thread_local Memory kept;
    thread_local size_t kept_size = 0;
    if (kept_size < size) {
        kept_size = 0;
        kept = allocate(size);
        kept_size = size;
    }
    return kept.get();
}

void check(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void check_unit_bytes(uint32_t unit_bytes) {
    check(unit_bytes == 1 || unit_bytes == 2 || unit_bytes == 4 || unit_bytes == 8,
          "unit_bytes is not 1, 2, 4 or 8");
}

void check_threads(size_t threads) {
    check(threads >= 1 && threads <= MAX_THREADS, "threads is not within 1 to 256");
}

void check_tiles(uint32_t form, uint32_t tile_log2, uint32_t predictor_set,
                 uint32_t transform_set) {
    check(form < N_SPATIAL_FORMS, "no such form of the spatial coding");
    check(tile_log2 >= MIN_TILE_LOG2 && tile_log2 <= MAX_TILE_LOG2, "tile_log2 is not 2 to 6");
    check(predictor_set > 0 && predictor_set < 1u << N_PREDICTORS, "no such predictors");
    check(transform_set > 0 && transform_set < 1u << N_TRANSFORMS, "no such transforms");
}

// The forms of rans16, or the splits of rans32, that the encoder may choose from.
void check_forms(uint8_t family, uint32_t form_set, uint32_t unit_bytes, uint32_t exponent_bits) {
    check(family == CODING_RANS16 || family == CODING_RANS32 || form_set == 0,
          "only rans16 and rans32 have forms to choose from");
    check(family != CODING_RANS32 || form_set != 0, "rans32 needs a form");
    for (uint32_t form = 0; form < 32; ++form) {
        if (!(form_set >> form & 1)) continue;
        if (family == CODING_RANS16) {
            check(form > 0 && form < N_FORMS && FIELD_MAPS[form].unit_bytes == unit_bytes,
                  "a form is of another unit size");
            continue;
        }
        const UnitSplit split{static_cast<uint8_t>(unit_bytes), static_cast<uint8_t>(form / 16),
                              static_cast<uint8_t>(form % 16), 0};
        check(split.legal() && split.code_bits() + split.sign_raw > exponent_bits,
              "a split leaves no code, or too many raw bits");
    }
}

// Every unit of every block lies inside the matrix. Returns the units of the largest block.
uint64_t check_matrix(const BlockDescriptor* blocks, size_t n_blocks, const uint32_t* row_index,
                      size_t n_row_index, uint64_t matrix_bytes, uint32_t unit_bytes) {
    uint64_t max_units = 0;
    for (size_t i = 0; i < n_blocks; ++i) {
        const BlockDescriptor& block = blocks[i];
        const uint64_t n_units = uint64_t(block.rows) * block.cols;
        check(block.rows > 0 && block.cols > 0, "a block is empty");
        check(n_units <= MAX_BLOCK_UNITS && n_units * unit_bytes <= MAX_BLOCK_BYTES,
              "a block is too large");
        uint64_t last_row = block.rows - 1;
        if (block.row_index_first != NO_ROW_INDEX) {
            check(block.row_index_first <= n_row_index &&
                      block.rows <= n_row_index - block.row_index_first,
                  "a block's rows run past the row index");
            last_row = 0;
            for (uint32_t r = 0; r < block.rows; ++r)
                last_row = std::max<uint64_t>(last_row, row_index[block.row_index_first + r]);
        }
        const uint64_t row_bytes = uint64_t(block.cols) * unit_bytes;
        check(
            block.matrix_offset <= matrix_bytes && row_bytes <= matrix_bytes - block.matrix_offset,
            "a block lies outside the matrix");
        if (last_row > 0)
            check(block.row_stride <= (matrix_bytes - block.matrix_offset - row_bytes) / last_row,
                  "a block lies outside the matrix");
        max_units = std::max(max_units, n_units);
    }
    return max_units;
}

// Every block, and the slack behind it, lies inside the data.
void check_data(const BlockDescriptor* blocks, const BlockHeader* headers, size_t n_blocks,
                uint64_t data_bytes) {
    for (size_t i = 0; i < n_blocks; ++i) {
        check(headers[i].payload_bytes <= MAX_BLOCK_BYTES, "a payload is too large");
        const uint64_t size = block_bytes(headers[i].payload_bytes) + READ_SLACK_BYTES;
        check(blocks[i].data_offset <= data_bytes && size <= data_bytes - blocks[i].data_offset,
              "a block and its slack lie outside the data");
    }
}

// Index and status of every block that is not OK.
std::vector<std::pair<size_t, uint32_t>> failures(const std::vector<Status>& statuses) {
    std::vector<std::pair<size_t, uint32_t>> found;
    for (size_t i = 0; i < statuses.size(); ++i)
        if (statuses[i] != Status::OK) found.emplace_back(i, static_cast<uint32_t>(statuses[i]));
    return found;
}

using Failures = std::vector<std::pair<size_t, uint32_t>>;

std::tuple<uint64_t, Failures> encode_blocks_py(
    nb::handle matrix_object, uint32_t unit_bytes, nb::handle descriptors_object,
    nb::object row_index_object, nb::handle data_object, nb::handle headers_object, uint8_t family,
    uint32_t form_set, uint32_t n_streams,
    std::tuple<uint32_t, uint32_t, uint32_t, uint32_t> spatial, std::tuple<uint32_t, bool> rans32,
    bool verify, size_t threads) {
    const Buffer matrix(matrix_object, false);
    const Buffer descriptors(descriptors_object, false);
    const Buffer row_index(row_index_object, false);
    const Buffer data(data_object, true);
    const Buffer headers(headers_object, true);
    size_t n_blocks, n_row_index, n_headers;
    const auto* blocks = descriptors.array<const BlockDescriptor>(n_blocks, "descriptors");
    const auto* rows = row_index.array<const uint32_t>(n_row_index, "row_index");
    auto* headers_out = headers.array<BlockHeader>(n_headers, "headers");

    check_unit_bytes(unit_bytes);
    check_threads(threads);
    check(n_streams == 1 || n_streams == 2 || n_streams == 4, "n_streams is not 1, 2 or 4");
    check(n_headers == n_blocks, "there are not as many headers as blocks");
    check(family == CODING_RAW || family == CODING_RANS16 || family == CODING_RANS32 ||
              family == CODING_SPATIAL,
          "the core does not encode this family");
    const auto [exponent_bits, classes] = rans32;
    check_forms(family, form_set, unit_bytes, exponent_bits);
    const auto [form, tile_log2, predictor_set, transform_set] = spatial;
    if (family == CODING_SPATIAL) {
        check(unit_bytes <= 4, "unit_bytes is not 1, 2 or 4");
        check_tiles(form, tile_log2, predictor_set, transform_set);
    }
    const uint64_t max_units =
        check_matrix(blocks, n_blocks, rows, n_row_index, matrix.size(), unit_bytes);
    uint64_t room = data.size();
    for (size_t i = 0; i < n_blocks; ++i) {
        const uint64_t most = block_bytes(uint64_t(blocks[i].rows) * blocks[i].cols * unit_bytes);
        check(most <= room, "data is too small");
        room -= most;
    }

    const size_t scratch_bytes = encode_scratch_bytes(family, max_units, unit_bytes);
    threads = std::min(threads, std::max<size_t>(n_blocks, 1));
    Memory of_this_call;
    uint8_t* const scratch = scratch_memory(scratch_bytes * threads, of_this_call);
    std::vector<Status> statuses(n_blocks);
    uint64_t total = 0;
    {
        nb::gil_scoped_release release;
        total = encode_blocks(
            {matrix.data(), unit_bytes, blocks, n_blocks, rows, data.data(), headers_out,
             statuses.data(), threads, scratch, scratch_bytes},
            {family,
             form_set,
             n_streams,
             verify,
             {static_cast<SpatialForm>(form), tile_log2, predictor_set, transform_set},
             {form_set, exponent_bits, classes}});
    }
    return {total, failures(statuses)};
}

Failures decode_blocks_py(nb::handle data_object, nb::handle headers_object, uint8_t family,
                          nb::handle descriptors_object, nb::object row_index_object,
                          nb::handle matrix_object, uint32_t unit_bytes, size_t threads) {
    const Buffer data(data_object, false);
    const Buffer headers(headers_object, false);
    const Buffer descriptors(descriptors_object, false);
    const Buffer row_index(row_index_object, false);
    const Buffer matrix(matrix_object, true);
    size_t n_blocks, n_row_index, n_headers;
    const auto* blocks = descriptors.array<const BlockDescriptor>(n_blocks, "descriptors");
    const auto* rows = row_index.array<const uint32_t>(n_row_index, "row_index");
    auto* headers_in = headers.array<BlockHeader>(n_headers, "headers");

    check_unit_bytes(unit_bytes);
    check_threads(threads);
    check(n_headers == n_blocks, "there are not as many headers as blocks");
    const uint64_t max_units =
        check_matrix(blocks, n_blocks, rows, n_row_index, matrix.size(), unit_bytes);
    check_data(blocks, headers_in, n_blocks, data.size());

    const size_t scratch_bytes = decode_scratch_bytes(family, max_units, unit_bytes);
    threads = std::min(threads, std::max<size_t>(n_blocks, 1));
    const Memory scratch = allocate(scratch_bytes * threads);
    std::vector<Status> statuses(n_blocks);
    {
        nb::gil_scoped_release release;
        decode_blocks({matrix.data(), unit_bytes, blocks, n_blocks, rows, data.data(), headers_in,
                       statuses.data(), threads, scratch.get(), scratch_bytes},
                      family);
    }
    return failures(statuses);
}

std::tuple<uint64_t, Failures> describe_blocks_py(
    nb::handle data_object, nb::handle headers_object, uint8_t family,
    nb::handle descriptors_object, uint64_t matrix_bytes, uint32_t unit_bytes,
    uint64_t data_address, uint64_t matrix_address, nb::handle streams_object,
    nb::handle rans32_object, nb::handle spatial_object, nb::handle copies_object,
    nb::handle parameters_object) {
    const Buffer data(data_object, false);
    const Buffer headers(headers_object, false);
    const Buffer descriptors(descriptors_object, false);
    const Buffer streams(streams_object, true);
    const Buffer rans32(rans32_object, true);
    const Buffer spatial(spatial_object, true);
    const Buffer copies(copies_object, true);
    const Buffer parameters(parameters_object, true);
    size_t n_blocks, n_headers, n_streams, n_rans32, n_spatial, n_copies;
    const auto* blocks = descriptors.array<const BlockDescriptor>(n_blocks, "descriptors");
    auto* headers_in = headers.array<BlockHeader>(n_headers, "headers");
    auto* streams_out = streams.array<StreamDescriptor>(n_streams, "streams");
    auto* rans32_out = rans32.array<Rans32Descriptor>(n_rans32, "rans32");
    auto* spatial_out = spatial.array<SpatialDescriptor>(n_spatial, "spatial");
    auto* copies_out = copies.array<CopyDescriptor>(n_copies, "copies");

    check_unit_bytes(unit_bytes);
    check(n_headers == n_blocks, "there are not as many headers as blocks");
    check(data_address % BLOCK_ALIGNMENT == 0, "data_address is not a multiple of 16");
    // No row index, so a block that has one is refused.
    check_matrix(blocks, n_blocks, nullptr, 0, matrix_bytes, unit_bytes);
    check_data(blocks, headers_in, n_blocks, data.size());
    size_t streams_needed = 0, rans32_needed = 0, spatial_needed = 0, copies_needed = 0;
    uint64_t parameters_needed = 0;
    for (size_t i = 0; i < n_blocks; ++i) {
        check(blocks[i].data_offset % BLOCK_ALIGNMENT == 0, "a block is not at a multiple of 16");
        streams_needed += n_streams_of(headers_in[i]);
        copies_needed += is_copied(headers_in[i]);
        rans32_needed += headers_in[i].coding == CODING_RANS32;
        spatial_needed += headers_in[i].coding == CODING_SPATIAL;
        parameters_needed += parameter_room(headers_in[i], blocks[i].rows, blocks[i].cols);
    }
    check(n_streams == streams_needed && n_rans32 == rans32_needed && n_spatial == spatial_needed &&
              n_copies == copies_needed,
          "there is not room for just the descriptors of the headers");
    check(parameters.size() >= parameters_needed, "there is not room for the parameters");
    std::vector<Status> statuses(n_blocks);
    uint64_t parameter_bytes = 0;
    {
        nb::gil_scoped_release release;
        parameter_bytes = describe_blocks(
            {nullptr, unit_bytes, blocks, n_blocks, nullptr, data.data(), headers_in,
             statuses.data(), 1, nullptr, 0},
            family,
            {data_address,
             matrix_address,
             {streams_out, rans32_out, spatial_out, copies_out, parameters.data()}});
    }
    return {parameter_bytes, failures(statuses)};
}

std::tuple<uint64_t, uint64_t, uint64_t> sample_spatial(nb::handle matrix_object, uint32_t cols,
                                                        uint32_t unit_bytes, uint32_t form,
                                                        uint32_t tile_log2, uint32_t predictor_set,
                                                        uint32_t transform_set, uint32_t n_tiles) {
    const Buffer matrix(matrix_object, true);
    check(unit_bytes == 1 || unit_bytes == 2 || unit_bytes == 4, "unit_bytes is not 1, 2 or 4");
    check_tiles(form, tile_log2, predictor_set, transform_set);
    check(cols > 0 && n_tiles > 0, "the sample is empty");
    const uint64_t rows = matrix.size() / unit_bytes / cols;
    check(rows > 0 && rows * cols <= MAX_BLOCK_UNITS && rows * cols * unit_bytes == matrix.size(),
          "the sample has no rows or is too large");
    const SpatialOptions options{static_cast<SpatialForm>(form), tile_log2, predictor_set,
                                 transform_set};
    map_units(options.form, unit_bytes, matrix.data(), rows * cols);
    const SampleCosts costs = sample_tiles(matrix.data(), static_cast<uint32_t>(rows), cols,
                                           unit_bytes, options, n_tiles);
    return {costs.none, costs.best, costs.n_units};
}

void spatial_transform(nb::handle squares_object, uint32_t transform, bool inverse) {
    const Buffer squares(squares_object, true);
    size_t n;
    auto* numbers = squares.array<int32_t>(n, "squares");
    constexpr uint32_t N = TRANSFORM_SIZE;
    check(n % (N * N) == 0, "squares are not of 8 x 8 numbers");
    check(transform < N_TRANSFORMS, "no such transform");
    const auto apply = inverse ? inverse_transform_tile : transform_tile;
    for (size_t i = 0; i < n; i += N * N)
        apply(static_cast<Transform>(transform), numbers + i, {0, 0, N, N});
}

uint32_t crc32_py(nb::handle object, uint32_t start) {
    // Of heads and directories, whose CRC takes less time than another thread to wake up.
    constexpr uint64_t SMALL_BYTES = uint64_t(16) << 10;
    const Buffer buffer(object, false);
    std::optional<nb::gil_scoped_release> release;
    if (buffer.size() > SMALL_BYTES) release.emplace();
    return kernels().crc32(buffer.data(), buffer.size(), start);
}

std::vector<std::string> backends() {
    size_t n;
    const Kernels* const* list = available_backends(n);
    std::vector<std::string> names;
    for (size_t i = 0; i < n; ++i) names.emplace_back(list[i]->name);
    return names;
}

void set_backend(const std::string& name) {
    if (use_backend(name.c_str())) return;
    std::string message = "no backend '" + name + "' on this machine; there are:";
    for (const std::string& known : backends()) message += " " + known;
    throw std::invalid_argument(message);
}

// Pages of 4 KiB that are new to the process cost more than encoding what is put into them.
nb::bytes new_bytes(size_t size) {
    PyObject* object = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
    if (object == nullptr) throw nb::python_error();
#ifdef MADV_HUGEPAGE
    const auto begin = reinterpret_cast<uintptr_t>(PyBytes_AS_STRING(object));
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t first = align_up(begin, page);
    const uintptr_t last = (begin + size) / page * page;
    if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
    return nb::steal<nb::bytes>(object);
}

std::string status_text(uint32_t status) {
    check(status < static_cast<uint32_t>(Status::COUNT), "no such status");
    return STATUS_TEXTS[status];
}

nb::typed<nb::dict, nb::str, int> field_map(uint32_t form) {
    const FieldMap& map = FIELD_MAPS[form];
    nb::typed<nb::dict, nb::str, int> fields;
    fields["unit_bytes"] = map.unit_bytes;
    fields["value_mask"] = map.value_mask;
    fields["step_bytes"] = map.top_field + map.low_fields;
    fields["zero_bits"] = map.zero_bits;
    return fields;
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The compiled core of wcodec; not a public interface.";

    m.def("crc32", crc32_py, nb::arg("data"), nb::arg("start") = 0,
          nb::sig("def crc32(data: object, start: int = 0) -> int"),
          "CRC-32 (zlib's) of any buffer, continued from start.");
    m.def(
        "crc32_combine", crc32_combine, nb::arg("first"), nb::arg("second"),
        nb::arg("second_bytes"),
        "CRC-32 of two byte strings one after the other, from theirs and the size of the second.");
    m.def(
        "encode_blocks", encode_blocks_py, nb::arg("matrix"), nb::arg("unit_bytes"),
        nb::arg("descriptors"), nb::arg("row_index"), nb::arg("data"), nb::arg("headers"),
        nb::arg("family"), nb::arg("form_set"), nb::arg("n_streams"), nb::arg("spatial"),
        nb::arg("rans32"), nb::arg("verify"), nb::arg("threads"),
        nb::sig(
            "def encode_blocks(matrix: object, unit_bytes: int, descriptors: object, "
            "row_index: object, data: object, "
            "headers: object, family: int, form_set: int, n_streams: int, spatial: "
            "tuple[int, int, int, int], rans32: tuple[int, bool], verify: bool, threads: int) -> "
            "tuple[int, list[tuple[int, int]]]"),
        "Encode blocks into data, back to back, and their headers into headers. data has room for "
        "them as raw blocks. spatial is form, "
        "tile_log2, predictor_set and transform_set; rans32 is exponent_bits and whether classes "
        "are tried. Returns the size "
        "and the (block, status) of "
        "each failure.");
    m.def("decode_blocks", decode_blocks_py, nb::arg("data"), nb::arg("headers"), nb::arg("family"),
          nb::arg("descriptors"), nb::arg("row_index"), nb::arg("matrix"), nb::arg("unit_bytes"),
          nb::arg("threads"),
          nb::sig("def decode_blocks(data: object, headers: object, family: int, descriptors: "
                  "object, row_index: object, "
                  "matrix: object, unit_bytes: int, threads: int) -> list[tuple[int, int]]"),
          "Check blocks and decode them into matrix. Returns the (block, status) of each failure.");
    m.def("describe_blocks", describe_blocks_py, nb::arg("data"), nb::arg("headers"),
          nb::arg("family"), nb::arg("descriptors"), nb::arg("matrix_bytes"), nb::arg("unit_bytes"),
          nb::arg("data_address"), nb::arg("matrix_address"), nb::arg("streams"), nb::arg("rans32"),
          nb::arg("spatial"), nb::arg("copies"), nb::arg("parameters"),
          nb::sig("def describe_blocks(data: object, headers: object, family: int, descriptors: "
                  "object, matrix_bytes: int, unit_bytes: int, data_address: int, matrix_address: "
                  "int, streams: object, rans32: object, spatial: object, copies: object, "
                  "parameters: object) -> "
                  "tuple[int, list[tuple[int, int]]]"),
          "Check blocks and fill in what a GPU needs to decode them, its data and matrix being at "
          "these addresses: a StreamDescriptor for each stream of a rans16 header, a "
          "Rans32Descriptor for each rans32 one and a SpatialDescriptor for each spatial one, "
          "whose parameters are put into parameters, and a CopyDescriptor for each other. Returns "
          "the size of the parameters and the (block, "
          "status) of each failure.");
    m.def("new_bytes", new_bytes, nb::arg("size"),
          "Bytes, not initialised, in large pages where the system has them.");
    m.def("sample_spatial", sample_spatial, nb::arg("matrix"), nb::arg("cols"),
          nb::arg("unit_bytes"), nb::arg("form"), nb::arg("tile_log2"), nb::arg("predictor_set"),
          nb::arg("transform_set"), nb::arg("n_tiles"),
          nb::sig("def sample_spatial(matrix: object, cols: int, unit_bytes: int, form: int, "
                  "tile_log2: int, predictor_set: int, transform_set: int, n_tiles: int) -> "
                  "tuple[int, int, int]"),
          "Costs of some tiles of a matrix in bits / 256, without modelling and with the best "
          "predictor or transform, and their units. Changes the matrix.");
    m.def("spatial_transform", spatial_transform, nb::arg("squares"), nb::arg("transform"),
          nb::arg("inverse"),
          nb::sig("def spatial_transform(squares: object, transform: int, inverse: bool) -> None"),
          "Transform 8 x 8 int32 numbers in place; for tests.");
    m.def("backends", backends, "Names of the backends this machine can run, best first.");
    m.def("backend", [] { return std::string(kernels().name); }, "Name of the backend in use.");
    m.def("set_backend", set_backend, nb::arg("name"),
          "Use this backend from now on. Raises ValueError if there is none.");
    m.def("status_text", status_text, nb::arg("status"),
          "What a status says, as the end of a sentence about a block.");
    m.def("field_map", field_map, nb::arg("form"),
          "Facts of a field map of rans16 (1 to N_FORMS - 1).");

    const std::pair<const char*, uint64_t> constants[] = {
        {"CODING_RAW", CODING_RAW},
        {"CODING_CONSTANT", CODING_CONSTANT},
        {"CODING_RANS16", CODING_RANS16},
        {"CODING_RANS32", CODING_RANS32},
        {"CODING_SPATIAL", CODING_SPATIAL},
        {"CODING_LZ", CODING_LZ},
        {"CODING_ROW_GROUPS", CODING_ROW_GROUPS},
        {"BLOCK_HEADER_BYTES", BLOCK_HEADER_BYTES},
        {"BLOCK_ALIGNMENT", BLOCK_ALIGNMENT},
        {"READ_SLACK_BYTES", READ_SLACK_BYTES},
        {"MAX_BLOCK_UNITS", MAX_BLOCK_UNITS},
        {"MAX_BLOCK_BYTES", MAX_BLOCK_BYTES},
        {"MAX_ROW_GROUPS", MAX_ROW_GROUPS},
        {"MAX_THREADS", MAX_THREADS},
        {"STREAMING_ALIGNMENT", STREAMING_ALIGNMENT},
        {"LANES", LANES},
        {"N_FORMS", N_FORMS},
        {"FORM_BF16_E8", FORM_BF16_E8},
        {"FORM_BF16_E8M1", FORM_BF16_E8M1},
        {"FORM_FP16_E5M1", FORM_FP16_E5M1},
        {"FORM_FP32_E8", FORM_FP32_E8},
        {"FORM_FP32_E8M1", FORM_FP32_E8M1},
        {"FORM_FP32_E8_Z13", FORM_FP32_E8_Z13},
        {"FORM_FP32_E8M1_Z13", FORM_FP32_E8M1_Z13},
        {"FORM_FP32_E8_Z16", FORM_FP32_E8_Z16},
        {"FORM_FP32_E8M1_Z16", FORM_FP32_E8M1_Z16},
        {"FORM_INT8_T4", FORM_INT8_T4},
        {"FORM_INT8_T5", FORM_INT8_T5},
        {"FORM_INT8_T6", FORM_INT8_T6},
        {"FORM_INT8_T8", FORM_INT8_T8},
        {"FORM_FP8_T5", FORM_FP8_T5},
        {"SPATIAL_SIGNED", SPATIAL_SIGNED},
        {"SPATIAL_UNSIGNED", SPATIAL_UNSIGNED},
        {"SPATIAL_FLOAT", SPATIAL_FLOAT},
        {"NO_ROW_INDEX", NO_ROW_INDEX},
        {"HEADER_MISMATCH", static_cast<uint64_t>(Status::HEADER_MISMATCH)},
        {"CRC_MISMATCH", static_cast<uint64_t>(Status::CRC_MISMATCH)},
        {"STREAM_NOT_CONSUMED", static_cast<uint64_t>(Status::STREAM_NOT_CONSUMED)},
        {"BAD_RAW_BITS", static_cast<uint64_t>(Status::BAD_RAW_BITS)},
        {"PADDING_NOT_ZERO", static_cast<uint64_t>(Status::PADDING_NOT_ZERO)},
        {"BAD_FINAL_STATE", static_cast<uint64_t>(Status::BAD_FINAL_STATE)},
        {"STREAM_STATUS_STATES", STATUS_STATES},
        {"STREAM_STATUS_RAW", STATUS_RAW},
        {"STREAM_STATUS_PADDING", STATUS_PADDING},
        {"STREAM_DESCRIPTOR_BYTES", sizeof(StreamDescriptor)},
        {"RANS32_DESCRIPTOR_BYTES", sizeof(Rans32Descriptor)},
        {"RANS32_PARAMETERS_OFFSET", offsetof(Rans32Descriptor, parameters)},
        {"RANS32_PARAMETERS_BYTES", RANS32_PARAMETERS_BYTES},
        {"MIN_TILE_LOG2", MIN_TILE_LOG2},
        {"SPATIAL_DESCRIPTOR_BYTES", sizeof(SpatialDescriptor)},
        {"SPATIAL_PARAMETERS_OFFSET", offsetof(SpatialDescriptor, parameters)},
        {"SPATIAL_PARAMETERS_BYTES", SPATIAL_PARAMETERS_BYTES},
        {"COPY_DESCRIPTOR_BYTES", sizeof(CopyDescriptor)},
        {"NO_ROW", NO_ROW},
    };
    for (const auto& [name, value] : constants) m.attr(name) = value;

    if (const char* name = std::getenv("WCODEC_BACKEND"); name && *name) {
        try {
            set_backend(name);
        } catch (const std::invalid_argument& error) {
            throw nb::import_error((std::string("WCODEC_BACKEND: ") + error.what()).c_str());
        }
    }
}
