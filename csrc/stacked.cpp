#include "stacked.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "arena.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

const StackedTable& table() { return ATTENDRITE_TABLE_IN_USE(stacked_table); }

std::int64_t filled_up(std::int64_t channels) {
    return (channels + kChannelsTogether - 1) / kChannelsTogether * kChannelsTogether;
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void fits(std::int64_t expected, std::int64_t got, const char* what) {
    if (expected == got) return;
    throw std::invalid_argument(std::string(what) + " must be " + std::to_string(expected) +
                                ", got " + std::to_string(got));
}

}  // namespace

// ---- the read-out ----

PointReadout::PointReadout(const float* features, const float* less, const float* bias,
                           const float* positions, std::int64_t units, std::int64_t channels,
                           bool plain)
    : channels_(channels),
      filled_(filled_up(channels)),
      plain_(plain),
      features_(at(units * filled_)),
      less_(less, less + units),
      bias_(bias, bias + units),
      positions_(positions, positions + 2 * units) {
    for (std::int64_t u = 0; u < units; ++u) {
        std::copy_n(features + u * channels, channels, features_.begin() + u * filled_);
    }
}

void PointReadout::points(std::int64_t rows, std::int64_t columns, float x, float y,
                          Point* out) const {
    // The place in a map of `n`, below it and how far beyond; places that are not there have none.
    struct Place {
        std::int64_t first;
        float part;
    };
    const auto place = [](float position, std::int64_t n) {
        const float at = (position + 1.0F) / 2.0F * static_cast<float>(n - 1);
        if (!(at > -1.0F && at < static_cast<float>(n))) return Place{-2, 0.0F};  // NaN too
        const float below = std::floor(at);
        return Place{static_cast<std::int64_t>(below), at - below};
    };
    for (std::int64_t u = 0; u < units(); ++u) {
        const Place across = place(positions_[at(2 * u)] + x, columns);
        const Place down = place(positions_[at(2 * u + 1)] + y, rows);
        for (int corner = 0; corner < 4; ++corner) {
            const std::int64_t c = across.first + corner % 2;
            const std::int64_t r = down.first + corner / 2;
            const bool there = c >= 0 && c < columns && r >= 0 && r < rows;
            const float part = (corner % 2 != 0 ? across.part : 1.0F - across.part) *
                               (corner / 2 != 0 ? down.part : 1.0F - down.part);
            out[u].place[corner] = there ? static_cast<std::int32_t>(r * columns + c) : 0;
            out[u].weight[corner] = there ? part : 0.0F;
        }
    }
}

void PointReadout::operator()(const float* map, const Point* points, float* out) const {
    table().read(map, filled_, points, units(), features_.data(), less_.data(), bias_.data(),
                 plain_, out);
}

// ---- the core ----

// Memory of a task.
struct Stacked::Room {
    float* patches;  // [columns of a map][first kernel]
    float* padded;   // a map with margins, which stay 0
    float* between;  // [columns of a map][filled]
    Point* points;
};

Stacked::Stacked(std::int64_t channels, std::int64_t rows, std::int64_t columns, std::int64_t size,
                 std::int64_t planes, Linear first, std::vector<StackedLayer> layers)
    : channels_(channels),
      rows_(rows),
      columns_(columns),
      size_(size),
      planes_(planes),
      high_(rows - size + 1),
      wide_(columns - size + 1),
      depth_(first.outputs()),
      filled_(filled_up(first.outputs())),
      first_(std::move(first)),
      layers_(std::move(layers)) {
    if (high_ < 1 || wide_ < 1) {
        throw std::invalid_argument("images must be as large as the first kernel");
    }
    fits(channels * size * size + planes, first_.inputs(), "inputs of the first product");
    for (StackedLayer& layer : layers_) {
        fits(depth_, layer.in.inputs(), "inputs of a layer");
        fits(depth_, layer.in.outputs(), "channels of a layer");
        fits(depth_, layer.out.inputs(), "channels of a layer");
        fits(depth_, layer.out.outputs(), "outputs of a layer");
        fits(layer.rows * layer.columns * filled_, static_cast<std::int64_t>(layer.weights.size()),
             "weights of a kernel");
        fits(filled_, static_cast<std::int64_t>(layer.bias.size()), "biases of a kernel");
        fits(1, layer.rows % 2, "rows of a kernel, odd, modulo 2");
        fits(1, layer.columns % 2, "columns of a kernel, odd, modulo 2");
        margin_rows_ = std::max(margin_rows_, layer.rows / 2);
        margin_columns_ = std::max(margin_columns_, layer.columns / 2);
    }
}

void Stacked::operator()(const float* images, std::int64_t n, const float* planes,
                         const float* shifts, const PointReadout& readout, float* out,
                         int threads) const {
    fits(depth_, readout.channels(), "channels of the read-out");
    std::vector<Point> still(shifts == nullptr ? at(readout.units()) : 0);
    if (shifts == nullptr) readout.points(high_, wide_, 0.0F, 0.0F, still.data());
    parallel_for(n, threads, [&](std::int64_t image) {
        thread_local Memory memory;
        const auto lay_out = [&](void* from, float*& map, Room& room) {
            Arena arena(from);
            map = arena.take<float>(high_ * wide_ * filled_);
            room.patches = arena.take<float>(wide_ * first_.inputs());
            room.padded = arena.take<float>((high_ + 2 * margin_rows_) *
                                            (wide_ + 2 * margin_columns_) * filled_);
            room.between = arena.take<float>(wide_ * filled_);
            room.points = arena.take<Point>(shifts == nullptr ? 0 : readout.units());
            return arena.used();
        };
        float* map = nullptr;
        Room room{};
        lay_out(memory.at_least(lay_out(nullptr, map, room)), map, room);
        std::memset(map, 0, at(high_ * wide_ * filled_) * sizeof(float));
        std::memset(room.padded, 0,
                    at((high_ + 2 * margin_rows_) * (wide_ + 2 * margin_columns_) * filled_) *
                        sizeof(float));
        first(images + image * channels_ * rows_ * columns_, planes + image * planes_, room, map);
        for (const StackedLayer& next : layers_) layer(next, room, map);
        const Point* points = still.data();
        if (shifts != nullptr) {
            readout.points(high_, wide_, shifts[2 * image], shifts[2 * image + 1], room.points);
            points = room.points;
        }
        readout(map, points, out + image * readout.units());
    });
}

void Stacked::first(const float* image, const float* planes, const Room& room, float* map) const {
    const auto bytes = at(size_) * sizeof(float);
    for (std::int64_t y = 0; y < high_; ++y) {
        float* to = room.patches;
        for (std::int64_t x = 0; x < wide_; ++x) {
            for (std::int64_t c = 0; c < channels_; ++c) {
                const float* from = image + (c * rows_ + y) * columns_ + x;
                for (std::int64_t i = 0; i < size_; ++i, from += columns_, to += size_) {
                    std::memcpy(to, from, bytes);
                }
            }
            to = std::copy_n(planes, planes_, to);
        }
        first_(room.patches, wide_, first_.inputs(), nullptr, 0, map + y * wide_ * filled_,
               filled_);
    }
}

void Stacked::layer(const StackedLayer& layer, const Room& room, float* map) const {
    const std::int64_t stride = (wide_ + 2 * margin_columns_) * filled_;
    float* const inside = room.padded + margin_rows_ * stride + margin_columns_ * filled_;
    for (std::int64_t y = 0; y < high_; ++y) {
        layer.in(map + y * wide_ * filled_, wide_, filled_, nullptr, 0, inside + y * stride,
                 filled_);
    }
    const Depthwise kernel = {layer.weights.data(), layer.bias.data(), layer.rows, layer.columns,
                              filled_};
    const float* const corner = inside - layer.rows / 2 * stride - layer.columns / 2 * filled_;
    for (std::int64_t y = 0; y < high_; ++y) {
        table().depthwise(kernel, corner + y * stride, stride, wide_, room.between);
        layer.out(room.between, wide_, filled_, nullptr, 0, map + y * wide_ * filled_, filled_);
    }
}

}  // namespace attendrite
