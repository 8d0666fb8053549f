#include "blocks.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

namespace attendrite {
namespace {

const BlocksTable& table() { return ATTENDRITE_TABLE_IN_USE(blocks_table); }

constexpr std::align_val_t kLine{64};

float* take(std::int64_t floats) {
    return static_cast<float*>(
        ::operator new(static_cast<std::size_t>(floats) * sizeof(float), kLine));
}

void at_least(std::int64_t least, const char* what, std::int64_t got) {
    if (got >= least) return;
    throw std::invalid_argument(std::string(what) + " must be " + std::to_string(least) +
                                " or more, got " + std::to_string(got) +
                                "; check the shape of the weights");
}

}  // namespace

void Linear::Free::operator()(float* p) const { ::operator delete(p, kLine); }

Linear::Linear(const float* weights, std::int64_t outputs, std::int64_t inputs, const float* bias,
               After after, std::int64_t stride, Precision precision)
    : inputs_(inputs), after_(after) {
    const BlocksTable& level = table();
    const bool gated = after == After::gated;
    const bool pairs = precision == Precision::bfloat16;
    at_least(1, "inputs of a product", inputs);
    at_least(1, "outputs of a product", outputs);
    if (stride == 0) stride = inputs;
    at_least(inputs, "stride of weights", stride);
    if (gated && outputs % 2 != 0) {
        throw std::invalid_argument("outputs of a gated product must be even, got " +
                                    std::to_string(outputs) + "; give a gate for every value");
    }
    if (pairs && level.multiply_pairs == nullptr) {
        throw std::invalid_argument(
            std::string("bfloat16 must run where the CPU has AVX512_BF16, got level ") +
            level_name(cpu_level()) + "; use float32");
    }
    multiply_ = pairs ? level.multiply_pairs : level.multiply;
    outputs_ = gated ? outputs / 2 : outputs;
    const std::int64_t columns = gated ? level.panel / 2 : level.panel;
    const std::int64_t padded = (outputs_ + columns - 1) / columns * level.panel;
    packed_.reset(take(padded * (pairs ? (inputs + 1) / 2 : inputs)));
    const auto pack = pairs ? level.pack_pairs : level.pack;
    pack(weights, outputs, inputs, stride, gated, packed_.get());
    bias_.reset(take(padded));
    if (bias != nullptr) {
        level.pack(bias, outputs, 1, 1, gated, bias_.get());
    } else {
        std::fill_n(bias_.get(), padded, 0.0F);
    }
}

void Linear::operator()(const float* x, std::int64_t rows, std::int64_t x_stride,
                        const float* residual, std::int64_t residual_stride, float* y,
                        std::int64_t y_stride) const {
    multiply_({packed_.get(), bias_.get(), inputs_, outputs_, after_}, x, rows, x_stride, residual,
              residual_stride, y, y_stride);
}

void layer_norm(const float* x, std::int64_t rows, std::int64_t width, std::int64_t x_stride,
                const float* gain, const float* offset, float eps, float* y,
                std::int64_t y_stride) {
    table().layer_norm(x, rows, width, x_stride, gain, offset, eps, y, y_stride);
}

}  // namespace attendrite
