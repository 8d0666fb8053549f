// Running sums of responses times images, from which receptive fields are made.
#pragma once

#include <cstdint>

namespace attendrite {

// Sums over images, added to: products [units][pixels], the others [units] and [pixels].
struct FieldSums {
    double *products, *responses, *response_squares, *pixels, *pixel_squares;
};

// Adds responses [images][units] and images [images][pixels]. Products of at most 256 images are
// summed in float32 one after the other, then those sums, and what all images of the call give is
// added in float64. The sums do not depend on the number of threads. Takes memory for the images
// once more and, for each thread, for images times 192 floats.
void add_to_fields(const float* responses, std::int64_t units, const float* pixels,
                   std::int64_t n_pixels, std::int64_t images, FieldSums sums, int threads);

}  // namespace attendrite
