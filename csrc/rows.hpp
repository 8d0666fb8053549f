// What a transformer does to each of its rows by itself: normalisation, then one product or two.
#pragma once

#include <cstdint>
#include <optional>

#include "blocks.hpp"

namespace attendrite {

// second(first(norm(x))), where normalisation and the second product may be missing. The gain and
// the offset of the normalisation are folded into the first product.
class Rows {
  public:
    // Throws std::invalid_argument if the second product does not take what the first one gives.
    Rows(bool normed, Linear first, std::optional<Linear> second);

    std::int64_t inputs() const { return first_.inputs(); }
    std::int64_t outputs() const { return second_ ? second_->outputs() : first_.outputs(); }

    // y[r] = ... of x[r], plus residual[r] where it is not nullptr; y may be the residual (same
    // stride), and x too if rows are normalised. Rows are cut into tasks that stay in the cache;
    // results do not depend on the number of threads. Each thread keeps memory for one task.
    void operator()(const float* x, std::int64_t rows, std::int64_t x_stride, const float* residual,
                    std::int64_t residual_stride, float* y, std::int64_t y_stride,
                    int threads) const;

  private:
    bool normed_;
    Linear first_;
    std::optional<Linear> second_;
};

}  // namespace attendrite
