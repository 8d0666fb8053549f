// Memory handed out piece by piece, each on its own cache line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace attendrite {

// Hands out pieces of some memory; with none it only counts.
class Arena {
  public:
    explicit Arena(void* memory) : begin_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(std::int64_t n) {
        T* const piece = begin_ == nullptr ? nullptr : reinterpret_cast<T*>(begin_ + used_);
        used_ += (static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T) + kLine - 1) /
                 kLine * kLine;
        return piece;
    }

    std::size_t used() const { return used_; }

    static constexpr std::size_t kLine = 64;

  private:
    char* begin_;
    std::size_t used_ = 0;
};

// Memory that grows and is then kept; what was in it is lost when it grows.
class Memory {
  public:
    void* at_least(std::size_t bytes) {
        if (bytes > size_) {
            const std::size_t whole = (bytes + Arena::kLine - 1) / Arena::kLine * Arena::kLine;
            bytes_.reset();
            size_ = 0;
            bytes_.reset(std::aligned_alloc(Arena::kLine, whole));
            if (bytes_ == nullptr) throw std::bad_alloc();
            size_ = whole;
        }
        return bytes_.get();
    }

    std::size_t size() const { return size_; }

  private:
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<void, Free> bytes_;
    std::size_t size_ = 0;
};

}  // namespace attendrite
