// Responses elu(A x + b) + 1 of units that look at parts of an image: linear-nonlinear models.
//
// A unit's row of A is 0 outside a window of the image. Units of like windows share a panel, whose
// weights cover the window of them all; a panel goes through some images at a time, so that its
// weights and their pixels stay in the cache. For U units with windows of W pixels that is 2 U W
// operations for each image and little more, whatever the size of the image.
//
// Rounding: float32, summed over about 256 pixels at a time. The result of an image does not depend
// on the others nor on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "affine_table.hpp"

namespace attendrite {

class Affine {
  public:
    // Weights [units][channels][rows][columns] and bias [units]; copied. Throws
    // std::invalid_argument for sizes below 1.
    Affine(const float* weights, const float* bias, std::int64_t units, std::int64_t channels,
           std::int64_t rows, std::int64_t columns);

    std::int64_t units() const { return static_cast<std::int64_t>(order_.size()); }

    // Operations for an image, those of zeros inside windows too.
    std::int64_t operations() const;

    // Responses [n][units] to images [n][channels][rows][columns].
    void operator()(const float* images, std::int64_t n, float* out, int threads) const;

  private:
    struct Panel {
        std::int64_t first;  // of its units, in order
        std::int64_t at;     // where its window begins in an image
        PixelWindow window;
        std::vector<float> weights, bias;
    };
    const AffineTable* table_;
    std::int64_t pixels_;
    std::vector<std::int64_t> order_;  // units by where they look
    std::vector<Panel> panels_;
};

}  // namespace attendrite
