#include "tokens.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>

#include "group.hpp"

namespace py = pybind11;

namespace {

// C-contiguous and of this dtype: anything else is refused, never copied. The public Python face
// has checked shapes already.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

attendrite::TokenWindows windows_of(const Array<double>& times, const Array<std::int32_t>& units,
                                    const Array<std::int64_t>& begin,
                                    const Array<std::int64_t>& end, const Array<double>& origin,
                                    const std::optional<Array<bool>>& exists, std::int64_t n_units,
                                    double length, double tick) {
    return {
        times.data(),   units.data(),
        begin.data(),   end.data(),
        origin.data(),  exists ? reinterpret_cast<const std::uint8_t*>(exists->data()) : nullptr,
        begin.shape(0), n_units,
        length,         tick};
}

std::int64_t count_tokens(const Array<std::int32_t>& units, const Array<std::int64_t>& begin,
                          const Array<std::int64_t>& end, const std::optional<Array<bool>>& exists,
                          std::int64_t n_units, Array<std::int64_t>& lengths, int threads) {
    const auto windows = windows_of({}, units, begin, end, {}, exists, n_units, 0.0, 0.0);
    std::int64_t* const out = lengths.mutable_data();
    const py::gil_scoped_release unlocked;
    return attendrite::count_tokens(windows, out, threads);
}

std::int64_t write_tokens(const Array<double>& times, const Array<std::int32_t>& units,
                          const Array<std::int64_t>& begin, const Array<std::int64_t>& end,
                          const Array<double>& origin, const std::optional<Array<bool>>& exists,
                          std::int64_t n_units, double length, double tick,
                          Array<std::int32_t>& unit, Array<double>& time, Array<std::int8_t>& type,
                          const Array<std::int64_t>& cu_seqlens, std::optional<Array<bool>>& mask,
                          std::optional<Array<std::int64_t>>& unit_offsets, int threads) {
    const auto windows =
        windows_of(times, units, begin, end, origin, exists, n_units, length, tick);
    const attendrite::TokenTarget target = {
        unit.mutable_data(),
        time.mutable_data(),
        type.mutable_data(),
        mask ? reinterpret_cast<std::uint8_t*>(mask->mutable_data()) : nullptr,
        unit_offsets ? unit_offsets->mutable_data() : nullptr,
        cu_seqlens.data(),
        mask ? mask->shape(1) : 0};
    const py::gil_scoped_release unlocked;
    return attendrite::write_tokens(windows, target, threads);
}

py::tuple window_ranges(const Array<double>& times, const Array<double>& starts,
                        double length_ticks, double tick_rate) {
    Array<std::int64_t> begin(starts.shape(0)), end(starts.shape(0));
    const double *const t = times.data(), *const s = starts.data();
    std::int64_t *const b = begin.mutable_data(), *const e = end.mutable_data();
    {
        const py::gil_scoped_release unlocked;
        attendrite::window_ranges(t, times.shape(0), s, starts.shape(0), length_ticks, tick_rate, b,
                                  e);
    }
    return py::make_tuple(begin, end);
}

bool group_by_unit(const Array<double>& times, const Array<std::int32_t>& units,
                   std::int64_t n_units, Array<double>& times_by_unit, Array<std::int64_t>& offsets,
                   int threads) {
    const double* const t = times.data();
    const std::int32_t* const u = units.data();
    double* const out = times_by_unit.mutable_data();
    std::int64_t* const o = offsets.mutable_data();
    const py::gil_scoped_release unlocked;
    return attendrite::group_by_unit(t, u, times.shape(0), n_units, out, o, threads);
}

bool merge_units(const Array<double>& times_by_unit, const Array<std::int64_t>& offsets,
                 Array<double>& times, Array<std::int32_t>& units, int threads) {
    const double* const by_unit = times_by_unit.data();
    const std::int64_t* const o = offsets.data();
    double* const t = times.mutable_data();
    std::int32_t* const u = units.mutable_data();
    const py::gil_scoped_release unlocked;
    return attendrite::merge_units(by_unit, o, offsets.shape(0) - 1, t, u, threads);
}

}  // namespace

void bind_tokens(py::module_& m) {
    m.def("count_tokens", count_tokens, py::arg("units").noconvert(), py::arg("begin").noconvert(),
          py::arg("end").noconvert(), py::arg("exists").noconvert().none(true), py::arg("n_units"),
          py::arg("lengths").noconvert(), py::arg("threads"),
          "Tokens of each window; returns the first bad window or -1.");
    m.def("write_tokens", write_tokens, py::arg("times").noconvert(), py::arg("units").noconvert(),
          py::arg("begin").noconvert(), py::arg("end").noconvert(), py::arg("origin").noconvert(),
          py::arg("exists").noconvert().none(true), py::arg("n_units"), py::arg("length"),
          py::arg("tick"), py::arg("unit").noconvert(), py::arg("time").noconvert(),
          py::arg("type").noconvert(), py::arg("cu_seqlens").noconvert(),
          py::arg("mask").noconvert().none(true), py::arg("unit_offsets").noconvert().none(true),
          py::arg("threads"), "Tokens of all windows; returns the first bad window or -1.");
    m.def("window_ranges", window_ranges, py::arg("times").noconvert(),
          py::arg("starts").noconvert(), py::arg("length_ticks"), py::arg("tick_rate"),
          "The spikes of each window: begin and end.");
    m.def("group_by_unit", group_by_unit, py::arg("times").noconvert(),
          py::arg("units").noconvert(), py::arg("n_units"), py::arg("times_by_unit").noconvert(),
          py::arg("offsets").noconvert(), py::arg("threads"),
          "Spikes sorted by unit; returns whether the input is good.");
    m.def("merge_units", merge_units, py::arg("times_by_unit").noconvert(),
          py::arg("offsets").noconvert(), py::arg("times").noconvert(),
          py::arg("units").noconvert(), py::arg("threads"),
          "Units merged into time order; returns whether the input is good.");
}
