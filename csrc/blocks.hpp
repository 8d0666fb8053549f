// The blocks that models are made of, but for attention: products with packed weights, with what
// follows them fused, and layer normalisation. Each call runs on the caller's thread: a model cuts
// its rows into tasks and calls one block after the other on rows that stay in the cache.
//
// Rounding: float32, products summed in blocks of at most kPanelDepth terms (DOI 10.1137/0914050),
// in bfloat16 of twice as many; the result of a row does not depend on the other rows of the call
// nor on where the call starts.
#pragma once

#include <cstdint>
#include <memory>

#include "blocks_table.hpp"

namespace attendrite {

// What the factors of a product are rounded to; sums, bias and what follows are float32.
enum class Precision { float32, bfloat16 };

// Weights [outputs][inputs], packed once for the instruction-set level in use, and a bias.
class Linear {
  public:
    Linear() = default;  // computes nothing: one to move another into
    // weights row-major with `stride` from row to row (0: inputs); bias [outputs] or nullptr. Both
    // are copied. Throws std::invalid_argument for sizes below 1, a stride below inputs, odd
    // outputs of a gated product, and bfloat16 at a level that has no instruction for it.
    Linear(const float* weights, std::int64_t outputs, std::int64_t inputs, const float* bias,
           After after = After::nothing, std::int64_t stride = 0,
           Precision precision = Precision::float32);

    std::int64_t inputs() const { return inputs_; }
    std::int64_t outputs() const { return outputs_; }  // columns of the result

    // y[r] = after(W x[r] + b) + residual[r] for `rows` rows; y may be the residual (same stride),
    // not x. residual may be nullptr. Takes no memory.
    void operator()(const float* x, std::int64_t rows, std::int64_t x_stride, const float* residual,
                    std::int64_t residual_stride, float* y, std::int64_t y_stride) const;

  private:
    struct Free {
        void operator()(float* p) const;
    };
    decltype(BlocksTable::multiply) multiply_ = nullptr;
    std::int64_t inputs_ = 0, outputs_ = 0;
    After after_ = After::nothing;
    std::unique_ptr<float[], Free> packed_, bias_;
};

// y[r] = (x[r] - mean) / sqrt(variance + eps), times gain and plus offset where they are not null.
// y may be x.
void layer_norm(const float* x, std::int64_t rows, std::int64_t width, std::int64_t x_stride,
                const float* gain, const float* offset, float eps, float* y, std::int64_t y_stride);

}  // namespace attendrite
