#include "rows.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "arena.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

constexpr std::int64_t kTaskRows = 66;  // what a product takes through its weights at a time
constexpr float kEps = 1e-5F;

}  // namespace

Rows::Rows(bool normed, Linear first, std::optional<Linear> second)
    : normed_(normed), first_(std::move(first)), second_(std::move(second)) {
    if (second_ && second_->inputs() != first_.outputs()) {
        throw std::invalid_argument("the second product must take " +
                                    std::to_string(first_.outputs()) + " numbers, got one of " +
                                    std::to_string(second_->inputs()));
    }
}

void Rows::operator()(const float* x, std::int64_t rows, std::int64_t x_stride,
                      const float* residual, std::int64_t residual_stride, float* y,
                      std::int64_t y_stride, int threads) const {
    const std::int64_t width = normed_ ? inputs() : 0;
    const std::int64_t hidden = second_ ? first_.outputs() : 0;
    parallel_for((rows + kTaskRows - 1) / kTaskRows, threads, [&](std::int64_t task) {
        thread_local Memory memory;
        const std::int64_t begin = task * kTaskRows;
        const std::int64_t n = std::min(kTaskRows, rows - begin);
        const auto floats = static_cast<std::size_t>(kTaskRows * (width + hidden));
        float* const room = static_cast<float*>(memory.at_least(floats * sizeof(float)));
        const float* from = x + begin * x_stride;
        std::int64_t stride = x_stride;
        if (normed_) {
            layer_norm(from, n, width, x_stride, nullptr, nullptr, kEps, room, width);
            from = room;
            stride = width;
        }
        const float* const added =
            residual == nullptr ? nullptr : residual + begin * residual_stride;
        float* const to = y + begin * y_stride;
        if (!second_) {
            first_(from, n, stride, added, residual_stride, to, y_stride);
            return;
        }
        float* const between = room + kTaskRows * width;
        first_(from, n, stride, nullptr, 0, between, hidden);
        (*second_)(between, n, hidden, added, residual_stride, to, y_stride);
    });
}

}  // namespace attendrite
