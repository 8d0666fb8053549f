// Binning. The callers in attendrite.kernels have checked dtypes, shapes and contiguity; only the
// streaming binner, whose calls must be short, checks its arrays here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "binning.hpp"
#include "stream_bins.hpp"

namespace py = pybind11;
using namespace attendrite;

namespace {

// C-contiguous and of this dtype: anything else is refused, never copied.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

using Npy = py::detail::npy_api;

std::string text(const py::handle& object) { return py::str(object).cast<std::string>(); }

bool is_plain(const py::array& array, int type) {
    const py::dtype dtype = array.dtype();
    const char order = dtype.byteorder();
    return dtype.num() == type && (order == '=' || order == '|') &&
           (array.flags() & py::array::c_style) != 0;
}

UnitType unit_type_of(const py::array& units) {
    if (is_plain(units, Npy::NPY_INT_)) return UnitType::i32;
    if (is_plain(units, Npy::NPY_USHORT_)) return UnitType::u16;
    throw py::type_error("units must be int32 or uint16 and contiguous, got " +
                         text(units.dtype()) + "; convert them once, before the call");
}

CountType count_type_of(const py::dtype& dtype) {
    switch (dtype.num()) {
        case Npy::NPY_UBYTE_:
            return CountType::u8;
        case Npy::NPY_USHORT_:
            return CountType::u16;
        case Npy::NPY_INT_:
            return CountType::i32;
        case Npy::NPY_FLOAT_:
            return CountType::f32;
        default:
            throw py::type_error("dtype must be uint8, uint16, int32 or float32, got " +
                                 text(dtype));
    }
}

FlatSpikes flat(const Array<double>& times, const py::array& units, std::int64_t n_units) {
    if (times.size() != units.size()) throw py::value_error("times and units differ in length");
    return {times.data(), units.data(), unit_type_of(units), times.size(), n_units};
}

UnitSpikes by_unit(const Array<double>& times, const Array<std::int64_t>& offsets) {
    return {times.data(), offsets.data(), times.size(), offsets.size() - 1};
}

py::tuple pair(Dropped dropped) { return py::make_tuple(dropped.before, dropped.after); }

py::tuple dense(const std::optional<FlatSpikes>& flat, const std::optional<UnitSpikes>& by_unit,
                const Grid& grid, bool time_major, bool drop, int threads, py::array& out) {
    const CountType type = count_type_of(out.dtype());
    const Layout layout = time_major ? Layout::time : Layout::unit;
    void* const cells = out.mutable_data();
    Dropped dropped;
    {
        const py::gil_scoped_release unlocked;
        dropped = flat ? bin_dense(*flat, grid, layout, type, cells, {drop, threads})
                       : bin_dense(*by_unit, grid, layout, type, cells, {drop, threads});
    }
    return pair(dropped);
}

py::tuple sparse(const std::optional<FlatSpikes>& flat, const std::optional<UnitSpikes>& by_unit,
                 const Grid& grid, bool rows_are_bins, bool drop, int threads,
                 Array<std::int64_t>& indptr, Array<std::int32_t>& indices, py::array& counts) {
    const RowsAre rows = rows_are_bins ? RowsAre::bins : RowsAre::units;
    const SparseCounts out{indptr.mutable_data(), indices.mutable_data(),
                           count_type_of(counts.dtype()), counts.mutable_data()};
    Dropped dropped;
    {
        const py::gil_scoped_release unlocked;
        dropped = flat ? bin_sparse(*flat, grid, rows, out, {drop, threads})
                       : bin_sparse(*by_unit, grid, rows, out, {drop, threads});
    }
    return pair(dropped);
}

// The streaming binner for Python. Its calls last about a microsecond: the GIL stays held.
class PyStreamBinner {
  public:
    PyStreamBinner(std::int64_t n_units, const Grid& grid, const py::dtype& dtype)
        : dtype_(dtype), binner_(n_units, grid, count_type_of(dtype)) {}

    py::array push(const py::array& times, const py::array& units, const py::object& out) {
        const FlatSpikes chunk = chunk_of(times, units);
        const double last =
            chunk.n > 0 ? chunk.times[chunk.n - 1] : -std::numeric_limits<double>::infinity();
        py::array rows = rows_for(last, out);
        binner_.push(chunk, rows.mutable_data());
        return rows;
    }

    py::array advance(double time, const py::object& out) {
        py::array rows = rows_for(time, out);
        binner_.advance(time, rows.mutable_data());
        return rows;
    }

    std::int64_t closed() const { return binner_.closed(); }

  private:
    FlatSpikes chunk_of(const py::array& times, const py::array& units) const {
        if (!is_plain(times, Npy::NPY_DOUBLE_)) {
            throw py::type_error("times must be float64 and contiguous, got " +
                                 text(times.dtype()) + "; convert them once, before the call");
        }
        if (times.ndim() != 1 || units.ndim() != 1 || times.size() != units.size()) {
            throw py::value_error("times and units must have one shape [n], got " +
                                  text(times.attr("shape")) + " and " + text(units.attr("shape")));
        }
        return {static_cast<const double*>(times.data()), units.data(), unit_type_of(units),
                times.size(), binner_.n_units()};
    }

    // [k, n_units] for the bins that a call closes: new, or the first k rows of `out`.
    py::array rows_for(double time, const py::object& out) const {
        const std::int64_t k = binner_.closes(time);
        const py::ssize_t n = binner_.n_units();
        if (out.is_none()) return py::array(dtype_, {static_cast<py::ssize_t>(k), n});
        if (!py::isinstance<py::array>(out)) {
            throw py::type_error("out must be a NumPy array, got " + text(py::type::of(out)));
        }
        const auto whole = py::reinterpret_borrow<py::array>(out);
        if (!is_plain(whole, dtype_.num())) {
            throw py::type_error("out must be contiguous " + text(dtype_) + ", got " +
                                 text(whole.dtype()) + "; make it with this dtype");
        }
        if (whole.ndim() != 2 || whole.shape(0) < k || whole.shape(1) != n) {
            throw py::value_error("out must have shape [at least " + std::to_string(k) + ", " +
                                  std::to_string(n) + "], got " + text(whole.attr("shape")));
        }
        if (!whole.writeable())
            throw py::value_error("out must be writeable, got a read-only array");
        return py::array(dtype_, {static_cast<py::ssize_t>(k), n}, whole.data(), whole);
    }

    py::dtype dtype_;
    StreamBinner binner_;
};

}  // namespace

void bind_spikes(py::module_& m) {
    py::class_<Grid>(m, "Grid", "Bins on integer ticks.")
        .def(py::init([](double tick_rate, std::int64_t start, std::int64_t width,
                         std::int64_t n_bins) { return Grid{tick_rate, start, width, n_bins}; }),
             py::arg("tick_rate"), py::arg("start"), py::arg("width"), py::arg("n_bins"));

    m.def(
        "bin_dense",
        [](const Array<double>& times, const py::array& units, std::int64_t n_units,
           const Grid& grid, bool time_major, bool drop, int threads, py::array& out) {
            return dense(flat(times, units, n_units), {}, grid, time_major, drop, threads, out);
        },
        "Dense counts of flat spikes into `out`; returns spikes dropped before and after.",
        py::arg("times").noconvert(), py::arg("units"), py::arg("n_units"), py::arg("grid"),
        py::arg("time_major"), py::arg("drop"), py::arg("threads"), py::arg("out"));
    m.def(
        "bin_dense_by_unit",
        [](const Array<double>& times, const Array<std::int64_t>& offsets, const Grid& grid,
           bool time_major, bool drop, int threads, py::array& out) {
            return dense({}, by_unit(times, offsets), grid, time_major, drop, threads, out);
        },
        "Dense counts of spikes by unit into `out`; returns spikes dropped before and after.",
        py::arg("times").noconvert(), py::arg("offsets").noconvert(), py::arg("grid"),
        py::arg("time_major"), py::arg("drop"), py::arg("threads"), py::arg("out"));
    m.def(
        "bin_sparse",
        [](const Array<double>& times, const py::array& units, std::int64_t n_units,
           const Grid& grid, bool rows_are_bins, bool drop, int threads,
           Array<std::int64_t>& indptr, Array<std::int32_t>& indices, py::array& counts) {
            return sparse(flat(times, units, n_units), {}, grid, rows_are_bins, drop, threads,
                          indptr, indices, counts);
        },
        "CSR counts of flat spikes; indices and counts have room for one entry per spike.",
        py::arg("times").noconvert(), py::arg("units"), py::arg("n_units"), py::arg("grid"),
        py::arg("rows_are_bins"), py::arg("drop"), py::arg("threads"),
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("counts"));
    m.def(
        "bin_sparse_by_unit",
        [](const Array<double>& times, const Array<std::int64_t>& offsets, const Grid& grid,
           bool rows_are_bins, bool drop, int threads, Array<std::int64_t>& indptr,
           Array<std::int32_t>& indices, py::array& counts) {
            return sparse({}, by_unit(times, offsets), grid, rows_are_bins, drop, threads, indptr,
                          indices, counts);
        },
        "CSR counts of spikes by unit; indices and counts have room for one entry per spike.",
        py::arg("times").noconvert(), py::arg("offsets").noconvert(), py::arg("grid"),
        py::arg("rows_are_bins"), py::arg("drop"), py::arg("threads"),
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("counts"));

    py::class_<PyStreamBinner>(m, "StreamBinner", "See attendrite.kernels.stream_bins.")
        .def(py::init<std::int64_t, const Grid&, const py::dtype&>(), py::arg("n_units"),
             py::arg("grid"), py::arg("dtype"))
        .def("push", &PyStreamBinner::push, py::arg("times"), py::arg("units"), py::arg("out"))
        .def("advance", &PyStreamBinner::advance, py::arg("time"), py::arg("out"))
        .def_property_readonly("closed", &PyStreamBinner::closed);
}
