// Receptive fields. The callers in attendrite.kernels have checked shapes.
#include "fields.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

// C-contiguous and of this dtype: anything else is refused, never copied.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

void add_to_fields(const Array<float>& responses, const Array<float>& images,
                   Array<double>& products, Array<double>& response_sums,
                   Array<double>& response_squares, Array<double>& pixel_sums,
                   Array<double>& pixel_squares, int threads) {
    const attendrite::FieldSums sums = {products.mutable_data(), response_sums.mutable_data(),
                                        response_squares.mutable_data(), pixel_sums.mutable_data(),
                                        pixel_squares.mutable_data()};
    const float *const r = responses.data(), *const x = images.data();
    const std::int64_t n = images.shape(0), units = responses.shape(1), pixels = images.shape(1);
    const py::gil_scoped_release unlocked;
    attendrite::add_to_fields(r, units, x, pixels, n, sums, threads);
}

}  // namespace

void bind_fields(py::module_& m) {
    m.def("add_to_fields", add_to_fields, py::arg("responses").noconvert(),
          py::arg("images").noconvert(), py::arg("products").noconvert(),
          py::arg("response_sums").noconvert(), py::arg("response_squares").noconvert(),
          py::arg("pixel_sums").noconvert(), py::arg("pixel_squares").noconvert(),
          py::arg("threads"), "Add responses times images to running sums.");
}
