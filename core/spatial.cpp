// SPDX-License-Identifier: Apache-2.0
//
// The reference for prediction and transforms. Rows of eight numbers are handled together, which
// compilers turn into vector instructions.
#include "spatial.hpp"

#include <algorithm>
#include <type_traits>

#include "bytes.hpp"

namespace wcodec {
namespace {

// ---- prediction ----

template <typename Unit>
using Wide = std::conditional_t<sizeof(Unit) == 4, int64_t, int32_t>;

// The expected value, from what is left, above and left above; outside the block all are 0. The
// result is meant modulo 2^(8 w).
template <Predictor predictor, typename Unit>
Wide<Unit> expected(Unit left, Unit top, Unit corner) {
    const Wide<Unit> l = left, t = top;
    if constexpr (predictor == PREDICT_LEFT) return l;
    if constexpr (predictor == PREDICT_TOP) return t;
    if constexpr (predictor == PREDICT_AVG) return (l + t) >> 1;
    if constexpr (predictor == PREDICT_PLANAR) return l + t - corner;
    if constexpr (predictor == PREDICT_MEDIAN) {
        const Wide<Unit> low = std::min(l, t), high = std::max(l, t);
        return std::clamp(l + t - corner, low, high);
    }
    return 0;
}

// Calls visit(row pointer, row above or zeros, left, corner, first index) for each row of a tile.
template <typename Unit, typename Visit>
void for_rows(Unit* image, uint32_t cols_of_image, const Tile& tile, Visit visit) {
    static const std::remove_const_t<Unit> zeros[1u << MAX_TILE_LOG2] = {};
    for (uint32_t r = 0; r < tile.rows; ++r) {
        Unit* row = image + size_t(tile.row + r) * cols_of_image + tile.col;
        const bool above = tile.row + r > 0;
        const auto* top = above ? row - cols_of_image : zeros;
        const auto left = tile.col > 0 ? row[-1] : Unit{0};
        const auto corner = above && tile.col > 0 ? top[-1] : Unit{0};
        visit(row, top, left, corner, size_t(r) * tile.cols);
    }
}

template <Predictor predictor, typename Unit>
void predict_units(const uint8_t* bytes, uint32_t cols_of_image, const Tile& tile,
                   int32_t* residuals) {
    const auto* image = reinterpret_cast<const Unit*>(bytes);
    for_rows(image, cols_of_image, tile,
             [&](const Unit* row, const Unit* top, Unit left, Unit corner, size_t at) {
                 for (uint32_t c = 0; c < tile.cols; ++c) {
                     const auto guess = expected<predictor, Unit>(left, top[c], corner);
                     residuals[at + c] = static_cast<Unit>(Wide<Unit>(row[c]) - guess);
                     left = row[c];
                     corner = top[c];
                 }
             });
}

template <Predictor predictor, typename Unit>
void restore_units(const int32_t* residuals, uint8_t* bytes, uint32_t cols_of_image,
                   const Tile& tile) {
    auto* image = reinterpret_cast<Unit*>(bytes);
    for_rows(image, cols_of_image, tile,
             [&](Unit* row, const Unit* top, Unit left, Unit corner, size_t at) {
                 for (uint32_t c = 0; c < tile.cols; ++c) {
                     const auto guess = expected<predictor, Unit>(left, top[c], corner);
                     left = static_cast<Unit>(static_cast<uint32_t>(guess) +
                                              static_cast<uint32_t>(residuals[at + c]));
                     row[c] = left;
                     corner = top[c];
                 }
             });
}

using PredictUnits = void (*)(const uint8_t*, uint32_t, const Tile&, int32_t*);
using RestoreUnits = void (*)(const int32_t*, uint8_t*, uint32_t, const Tile&);

template <typename Unit>
constexpr PredictUnits PREDICT[N_PREDICTORS] = {
    predict_units<PREDICT_NONE, Unit>,   predict_units<PREDICT_LEFT, Unit>,
    predict_units<PREDICT_TOP, Unit>,    predict_units<PREDICT_AVG, Unit>,
    predict_units<PREDICT_PLANAR, Unit>, predict_units<PREDICT_MEDIAN, Unit>,
};
template <typename Unit>
constexpr RestoreUnits RESTORE[N_PREDICTORS] = {
    restore_units<PREDICT_NONE, Unit>,   restore_units<PREDICT_LEFT, Unit>,
    restore_units<PREDICT_TOP, Unit>,    restore_units<PREDICT_AVG, Unit>,
    restore_units<PREDICT_PLANAR, Unit>, restore_units<PREDICT_MEDIAN, Unit>,
};

// ---- forms ----

template <typename Word>
void map_words(SpatialForm form, uint8_t* units, size_t n) {
    constexpr unsigned top_bit = 8 * sizeof(Word) - 1;
    constexpr Word sign = static_cast<Word>(Word{1} << top_bit);
    for (size_t i = 0; i < n; ++i) {
        Word word = read_as<Word>(units + i * sizeof(Word));
        if (form == SPATIAL_UNSIGNED) word ^= sign;
        // Sign and magnitude to two's complement: ascending as the floats are.
        if (form == SPATIAL_FLOAT && (word & sign)) word ^= static_cast<Word>(sign - 1);
        write_as(units + i * sizeof(Word), word);
    }
}

// ---- transforms ----

// Eight rows of eight numbers; arithmetic modulo 2^32.
struct Square {
    uint32_t x[TRANSFORM_SIZE][TRANSFORM_SIZE];

    void transpose() {
        for (uint32_t r = 0; r < TRANSFORM_SIZE; ++r)
            for (uint32_t c = 0; c < r; ++c) std::swap(x[r][c], x[c][r]);
    }

    // What a step adds to its row: of each column by itself.
    template <bool forward>
    void lift(const LiftStep& step) {
        uint32_t sum[TRANSFORM_SIZE] = {};
        for (uint32_t j = 0; j < TRANSFORM_SIZE; ++j) {
            const uint32_t factor = static_cast<uint32_t>(int32_t{step.factor[j]});
            for (uint32_t c = 0; c < TRANSFORM_SIZE; ++c) sum[c] += factor * x[j][c];
        }
        for (uint32_t c = 0; c < TRANSFORM_SIZE; ++c) {
            const uint32_t rounded = static_cast<uint32_t>(
                static_cast<int32_t>(sum[c] + (1u << (LIFT_BITS - 1))) >> LIFT_BITS);
            x[step.place][c] += forward ? rounded : 0 - rounded;
        }
    }

    void columns(Transform transform) {
        for (uint32_t i = 0; i < LIFT_STEPS; ++i) lift<true>(LIFTING[transform][i]);
    }
    void inverse_columns(Transform transform) {
        for (uint32_t i = LIFT_STEPS; i-- > 0;) lift<false>(LIFTING[transform][i]);
    }
};

template <typename Change>
void for_squares(int32_t* residuals, const Tile& tile, Change change) {
    constexpr uint32_t N = TRANSFORM_SIZE;
    for (uint32_t row = 0; row + N <= tile.rows; row += N)
        for (uint32_t col = 0; col + N <= tile.cols; col += N) {
            int32_t* at = residuals + size_t(row) * tile.cols + col;
            Square square;
            for (uint32_t r = 0; r < N; ++r)
                std::memcpy(square.x[r], at + size_t(r) * tile.cols, sizeof square.x[r]);
            change(square);
            for (uint32_t r = 0; r < N; ++r)
                std::memcpy(at + size_t(r) * tile.cols, square.x[r], sizeof square.x[r]);
        }
}

}  // namespace

void map_units(SpatialForm form, uint32_t w, uint8_t* units, size_t n) {
    if (form == SPATIAL_SIGNED) return;
    if (w == 1) map_words<uint8_t>(form, units, n);
    if (w == 2) map_words<uint16_t>(form, units, n);
    if (w == 4) map_words<uint32_t>(form, units, n);
}

void predict_tile(Predictor predictor, uint32_t w, const uint8_t* image, uint32_t cols_of_image,
                  const Tile& tile, int32_t* residuals) {
    if (w == 1) PREDICT<int8_t>[predictor](image, cols_of_image, tile, residuals);
    if (w == 2) PREDICT<int16_t>[predictor](image, cols_of_image, tile, residuals);
    if (w == 4) PREDICT<int32_t>[predictor](image, cols_of_image, tile, residuals);
}

void restore_tile(Predictor predictor, uint32_t w, const int32_t* residuals, uint8_t* image,
                  uint32_t cols_of_image, const Tile& tile) {
    if (w == 1) RESTORE<int8_t>[predictor](residuals, image, cols_of_image, tile);
    if (w == 2) RESTORE<int16_t>[predictor](residuals, image, cols_of_image, tile);
    if (w == 4) RESTORE<int32_t>[predictor](residuals, image, cols_of_image, tile);
}

void transform_tile(Transform transform, int32_t* residuals, const Tile& tile) {
    if (transform == TRANSFORM_NONE) return;
    for_squares(residuals, tile, [&](Square& square) {
        square.transpose();
        square.columns(transform);  // along the rows
        square.transpose();
        square.columns(transform);
    });
}

void inverse_transform_tile(Transform transform, int32_t* residuals, const Tile& tile) {
    if (transform == TRANSFORM_NONE) return;
    for_squares(residuals, tile, [&](Square& square) {
        square.inverse_columns(transform);
        square.transpose();
        square.inverse_columns(transform);
        square.transpose();
    });
}

}  // namespace wcodec
