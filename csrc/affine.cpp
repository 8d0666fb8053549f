#include "affine.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "threads.hpp"

namespace attendrite {
namespace {

constexpr std::int64_t kTaskImages = 66;  // that go through a panel together
constexpr std::int64_t kTaskPanels = 16;

// The pixels that a unit reads: rows and columns from first to last.
struct Box {
    std::int64_t top = std::numeric_limits<std::int64_t>::max(), left = top;
    std::int64_t bottom = -1, right = -1;

    void cover(const Box& other) {
        top = std::min(top, other.top);
        left = std::min(left, other.left);
        bottom = std::max(bottom, other.bottom);
        right = std::max(right, other.right);
    }
};

Box box_of(const float* weights, std::int64_t channels, std::int64_t rows, std::int64_t columns) {
    Box box;
    for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t y = 0; y < rows; ++y) {
            for (std::int64_t x = 0; x < columns; ++x) {
                if (*weights++ != 0.0F) box.cover({y, x, y, x});
            }
        }
    }
    if (box.bottom < 0) box = {0, 0, 0, 0};  // reads nothing: any pixel will do
    return box;
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

Affine::Affine(const float* weights, const float* bias, std::int64_t units, std::int64_t channels,
               std::int64_t rows, std::int64_t columns)
    : table_(&ATTENDRITE_TABLE_IN_USE(affine_table)), pixels_(channels * rows * columns) {
    if (std::min({units, channels, rows, columns}) < 1) {
        throw std::invalid_argument("units, channels, rows and columns must be 1 or more");
    }
    std::vector<Box> boxes;
    for (std::int64_t u = 0; u < units; ++u) {
        boxes.push_back(box_of(weights + u * pixels_, channels, rows, columns));
    }
    order_.resize(at(units));
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](std::int64_t a, std::int64_t b) {
        const Box &p = boxes[at(a)], &q = boxes[at(b)];
        return std::pair(p.top + p.bottom, p.left + p.right) <
               std::pair(q.top + q.bottom, q.left + q.right);
    });
    for (std::int64_t first = 0; first < units; first += table_->panel) {
        const std::int64_t some = std::min(table_->panel, units - first);
        Box box;
        for (std::int64_t i = 0; i < some; ++i) box.cover(boxes[at(order_[at(first + i)])]);
        Panel panel;
        panel.first = first;
        panel.at = box.top * columns + box.left;
        panel.window = {channels, rows * columns, box.bottom - box.top + 1, columns,
                        box.right - box.left + 1};
        const PixelWindow& window = panel.window;
        panel.weights.resize(at(channels * window.rows * window.columns * table_->panel));
        panel.bias.resize(at(table_->panel));
        for (std::int64_t i = 0; i < some; ++i) {
            const std::int64_t unit = order_[at(first + i)];
            panel.bias[at(i)] = bias[unit];
            float* to = panel.weights.data() + i;
            for (std::int64_t c = 0; c < channels; ++c) {
                for (std::int64_t y = 0; y < window.rows; ++y) {
                    const float* const from =
                        weights + unit * pixels_ + panel.at + c * window.channel_step + y * columns;
                    for (std::int64_t x = 0; x < window.columns; ++x, to += table_->panel) {
                        *to = from[x];
                    }
                }
            }
        }
        panels_.push_back(std::move(panel));
    }
}

std::int64_t Affine::operations() const {
    std::int64_t total = 0;
    for (const Panel& panel : panels_) total += 2 * static_cast<std::int64_t>(panel.weights.size());
    return total;
}

void Affine::operator()(const float* images, std::int64_t n, float* out, int threads) const {
    const auto n_panels = static_cast<std::int64_t>(panels_.size());
    const std::int64_t groups = (n_panels + kTaskPanels - 1) / kTaskPanels;
    const std::int64_t blocks = (n + kTaskImages - 1) / kTaskImages;
    parallel_for(groups * blocks, threads, [&](std::int64_t task) {
        const std::int64_t begin = task / groups * kTaskImages;
        const std::int64_t some = std::min(kTaskImages, n - begin);
        const std::int64_t group = task % groups * kTaskPanels;
        const std::unique_ptr<float[]> room(new float[at(some * table_->panel)]);
        for (std::int64_t p = group; p < std::min(n_panels, group + kTaskPanels); ++p) {
            const Panel& panel = panels_[at(p)];
            table_->apply(panel.window, images + begin * pixels_ + panel.at, some, pixels_,
                          panel.weights.data(), panel.bias.data(), room.get());
            const std::int64_t last = std::min(table_->panel, units() - panel.first);
            for (std::int64_t i = 0; i < some; ++i) {
                float* const to = out + (begin + i) * units();
                const float* const from = room.get() + i * table_->panel;
                for (std::int64_t u = 0; u < last; ++u) to[order_[at(panel.first + u)]] = from[u];
            }
        }
    });
}

}  // namespace attendrite
