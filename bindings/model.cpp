#include "model.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;  // of a tensor's memory, 0 for none; Python keeps the tensor alive

// Site, statistic, whether spikes alone count, k, result, second result.
using Request = std::tuple<std::int64_t, std::string, bool, std::int64_t, Address, Address>;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

attendrite_request request_of(const Request& r) {
    static const std::map<std::string, std::int32_t> kStatistics = {
        {"weights", ATTENDRITE_WEIGHTS},   {"per_key", ATTENDRITE_PER_KEY},
        {"per_unit", ATTENDRITE_PER_UNIT}, {"per_query_unit", ATTENDRITE_PER_QUERY_UNIT},
        {"entropy", ATTENDRITE_ENTROPY},   {"lse", ATTENDRITE_LSE},
        {"top_k", ATTENDRITE_TOP_K},       {"partials", ATTENDRITE_PARTIALS},
        {"lag", ATTENDRITE_LAG},           {"output", ATTENDRITE_OUTPUT},
        {"queries", ATTENDRITE_QUERIES},   {"keys", ATTENDRITE_KEYS},
    };
    const auto found = kStatistics.find(std::get<1>(r));
    if (found == kStatistics.end()) {
        throw std::invalid_argument("statistic must be known, got " + std::get<1>(r));
    }
    attendrite_request out{};
    out.site = std::get<0>(r);
    out.statistic = found->second;
    out.spikes_only = std::get<2>(r) ? 1 : 0;
    out.k = std::get<3>(r);
    out.result = pointer<void>(std::get<4>(r));
    out.second = pointer<void>(std::get<5>(r));
    return out;
}

std::vector<float*> pointers(const std::vector<Address>& addresses) {
    std::vector<float*> out;
    for (const Address address : addresses) out.push_back(pointer<float>(address));
    return out;
}

// Fields by name: addresses of what is there, 0 for what is not. A batch without its tokens.
attendrite_batch queries_of(const py::dict& fields) {
    const auto number = [&](const char* name) { return fields[name].cast<std::int64_t>(); };
    const auto address = [&](const char* name) { return fields[name].cast<Address>(); };
    attendrite_batch b{};
    b.windows = number("windows");
    b.queries = number("queries");
    b.query_times = pointer<const double>(address("query_times"));
    b.session_rows = pointer<const std::int64_t>(address("session_rows"));
    b.task_rows = pointer<const std::int64_t>(address("task_rows"));
    return b;
}

attendrite_batch batch_of(const py::dict& fields) {
    const auto address = [&](const char* name) { return fields[name].cast<Address>(); };
    attendrite_batch b = queries_of(fields);
    b.first = pointer<const std::int64_t>(address("first"));
    b.count = pointer<const std::int64_t>(address("count"));
    b.times = pointer<const double>(address("times"));
    b.units = pointer<const std::int64_t>(address("units"));
    b.types = pointer<const std::int64_t>(address("types"));
    b.values = pointer<const float>(address("values"));
    return b;
}

// A runner that any thread may call: one at a time.
class SharedRunner {
  public:
    SharedRunner(const std::string& manifest, const py::bytes& weights, bool bfloat16)
        : runner_(loaded(manifest, weights, bfloat16), 1) {}

    void run(const py::dict& fields, const std::vector<Request>& wanted,
             const std::vector<Address>& rooms, int threads) {
        const attendrite_batch batch = batch_of(fields);
        const auto* const rows = pointer<const std::int64_t>(fields["unit_rows"].cast<Address>());
        const auto n_units = fields["n_units"].cast<std::int64_t>();
        std::vector<attendrite_request> requests;
        for (const Request& one : wanted) requests.push_back(request_of(one));
        const std::vector<float*> predictions = pointers(rooms);

        const py::gil_scoped_release unlocked;
        const std::lock_guard turn(mutex_);
        runner_.set_threads(threads);
        runner_.bind_units(rows, n_units);
        runner_.run(batch, requests.data(), static_cast<std::int64_t>(requests.size()),
                    predictions.data());
    }

    void run_encoded(const py::dict& fields, Address encoded, const std::vector<Address>& rooms,
                     int threads) {
        const attendrite_batch batch = queries_of(fields);
        const std::vector<float*> predictions = pointers(rooms);

        const py::gil_scoped_release unlocked;
        const std::lock_guard turn(mutex_);
        runner_.set_threads(threads);
        runner_.run(batch, nullptr, 0, predictions.data(), pointer<const float>(encoded));
    }

  private:
    static std::shared_ptr<const attendrite::Model> loaded(const std::string& manifest,
                                                           const py::bytes& weights,
                                                           bool bfloat16) {
        using attendrite::Precision;
        const std::string_view bytes = weights;
        const py::gil_scoped_release unlocked;
        return std::make_shared<attendrite::Model>(
            attendrite::parse_bundle(manifest, bytes.data(), bytes.size()),
            bfloat16 ? Precision::bfloat16 : Precision::float32);
    }

    attendrite::Runner runner_;
    std::mutex mutex_;
};

}  // namespace

void bind_model(py::module_& m) {
    py::class_<SharedRunner>(m, "Runner", "A model that is run as a whole; see csrc/model.hpp.")
        .def(py::init<const std::string&, const py::bytes&, bool>(), py::arg("manifest"),
             py::arg("weights"), py::arg("bfloat16"),
             "From the contents of the two files of a bundle; products of layers in bfloat16.")
        .def("run", &SharedRunner::run, py::arg("fields"), py::arg("requests"),
             py::arg("predictions"), py::arg("threads"),
             "Runs a batch given by addresses, see csrc/include/attendrite.h.")
        .def("run_encoded", &SharedRunner::run_encoded, py::arg("fields"), py::arg("encoded"),
             py::arg("predictions"), py::arg("threads"),
             "Runs all that follows the encoder's attention; the batch needs no tokens.");
}
