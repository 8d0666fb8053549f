#include "fields.hpp"

#include <algorithm>
#include <memory>

#include "fields_table.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

// Not zeroed.
std::unique_ptr<float[]> floats(std::int64_t n) {
    return std::unique_ptr<float[]>(new float[static_cast<std::size_t>(n)]);
}

}  // namespace

void add_to_fields(const float* responses, std::int64_t units, const float* pixels,
                   std::int64_t n_pixels, std::int64_t images, FieldSums sums, int threads) {
    const FieldsTable& table = ATTENDRITE_TABLE_IN_USE(fields_table);
    const std::int64_t groups = (n_pixels + kPixelsTogether - 1) / kPixelsTogether;
    const auto packed = floats(groups * kPixelsTogether * images);
    parallel_for(groups, threads, [&](std::int64_t group) {
        const std::int64_t begin = group * kPixelsTogether;
        table.pack_images(pixels, images, n_pixels, begin,
                          std::min(n_pixels, begin + kPixelsTogether),
                          packed.get() + begin * images, sums.pixels, sums.pixel_squares);
    });
    const std::int64_t tasks = (units + kUnitsTogether - 1) / kUnitsTogether;
    parallel_for(tasks, threads, [&](std::int64_t task) {
        const std::int64_t begin = task * kUnitsTogether;
        const auto room = floats(images * kUnitsTogether);
        table.add_units({responses, images, units}, begin, std::min(units, begin + kUnitsTogether),
                        packed.get(), n_pixels, room.get(), sums.products, sums.responses,
                        sums.response_squares);
    });
}

}  // namespace attendrite
