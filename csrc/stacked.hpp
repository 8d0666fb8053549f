// Models of responses to images with a stacked convolutional core: a convolution without padding,
// then depth-separable ones with, ELU after each, and a read-out at a point for each unit.
//
// The data's way: a task takes one image through all layers, channels innermost, so that products
// over channels are those of blocks.hpp and its maps (400 kB for 28 x 56 places of 64 channels)
// stay in the cache. Normalisation is folded into the products; after them comes elu(x) + 1, and
// the 1 is taken off again in the bias of what follows, which is exact: what pads a map is 0 after
// the product over channels, and read-outs take off what they have read.
//
// Floor, for P places, D channels, K taps: 2 P D (first kernel) + layers x 2 P D (2 D + K)
// operations, 10 U D for the read-out of U units. Rounding: float32, sums over taps one after the
// other. Results depend neither on the other images nor on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.hpp"
#include "stacked_table.hpp"

namespace attendrite {

// A depth-separable layer: a product, a convolution of each channel, a product.
struct StackedLayer {
    Linear in;
    std::vector<float> weights, bias;  // [rows][columns][channels], [channels], channels filled up
    std::int64_t rows, columns;        // odd
    Linear out;
};

// The read-out of a mouse.
class PointReadout {
  public:
    // features [units][channels] and `less` [units], to be taken off with each reading; bias
    // [units]; positions [units][2], x and y in -1..1 from corner to corner. All are copied. A
    // `plain` one leaves out what follows the sum.
    PointReadout(const float* features, const float* less, const float* bias,
                 const float* positions, std::int64_t units, std::int64_t channels, bool plain);

    std::int64_t units() const { return static_cast<std::int64_t>(bias_.size()); }
    std::int64_t channels() const { return channels_; }

    // Where units read a map of that size, moved by x and y; beyond it there is nothing.
    void points(std::int64_t rows, std::int64_t columns, float x, float y, Point* out) const;

    // Responses [units] to a map [rows * columns][channels filled up].
    void operator()(const float* map, const Point* points, float* out) const;

  private:
    std::int64_t channels_, filled_;
    bool plain_;
    std::vector<float> features_, less_, bias_, positions_;
};

class Stacked {
  public:
    // Images [channels][rows][columns]; the first kernel is size x size, its product takes
    // [channels][size][size] and then `planes` numbers that are the same in all places. Throws
    // std::invalid_argument for layers that do not fit each other.
    Stacked(std::int64_t channels, std::int64_t rows, std::int64_t columns, std::int64_t size,
            std::int64_t planes, Linear first, std::vector<StackedLayer> layers);

    // Responses [n][units] to images [n][channels][rows][columns]; planes [n][planes], shifts
    // [n][2] or nullptr. Images are shared out among threads, each of which keeps memory for one.
    void operator()(const float* images, std::int64_t n, const float* planes, const float* shifts,
                    const PointReadout& readout, float* out, int threads) const;

  private:
    struct Room;
    void first(const float* image, const float* planes, const Room& room, float* map) const;
    void layer(const StackedLayer& layer, const Room& room, float* map) const;

    std::int64_t channels_, rows_, columns_, size_, planes_;
    std::int64_t high_, wide_, depth_, filled_;  // of a map
    Linear first_;
    std::vector<StackedLayer> layers_;
    std::int64_t margin_rows_ = 0, margin_columns_ = 0;  // of the widest kernel
};

}  // namespace attendrite
