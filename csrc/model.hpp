// A POYO, POYO+ or Calcium POYO+ bound to weights, and what runs it. attendrite.h is its face.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attendrite.h"
#include "blocks.hpp"
#include "bundle.hpp"

namespace attendrite {

// The part that never changes and that engines share.
class Model {
  public:
    // Throws std::invalid_argument. In bfloat16 the products of the layers are; what is made once,
    // read-outs, attention and statistics stay float32.
    explicit Model(const Bundle&, Precision = Precision::float32);
    ~Model();
    struct Parts;
    const Parts& parts() const { return *parts_; }

  private:
    std::unique_ptr<const Parts> parts_;
};

// Tables of bound units and the memory of a run; one thread at a time.
class Runner {
  public:
    Runner(std::shared_ptr<const Model>, int threads);
    Runner(const Runner&);  // the same model and units
    ~Runner();
    // The functions of attendrite.h; these throw std::invalid_argument.
    const Model& model() const;
    void set_threads(int);
    void bind_units(const std::int64_t* rows, std::int64_t n);
    void reserve(std::int64_t windows, std::int64_t tokens, std::int64_t longest,
                 std::int64_t queries);
    std::int64_t tokens(const double* times, const std::int64_t* units, std::int64_t n,
                        double* out_times, std::int64_t* out_units, std::int64_t* out_types) const;
    // From `encoded` as attendrite_run_encoded(), or where it is null from the batch's tokens.
    void run(const attendrite_batch&, const attendrite_request*, std::int64_t n_requests,
             float* const* predictions, const float* encoded = nullptr);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace attendrite
