// Whole cache lines to memory that is not read soon. Written with ordinary stores, each line would
// be read from memory first and would push others out of the caches: half the time of a large
// output. Lines that are written in pieces are slower still, hence the buffers here.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "dense_table.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// Bytes of the cache line of an address that lie before it.
inline std::int64_t phase_of(const void* address) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address) % kLine);
}

// Copies a line past the caches; `to` is the start of a line. Needs finish_lines() before another
// thread may read it.
inline void copy_line(std::uint8_t* to, const std::uint8_t* from) {
#if defined(__SSE2__)  // wider vectors are no faster: those of the buffers are written in parts
    for (int i = 0; i < 4; ++i) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i,
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
    }
#else
    std::memcpy(to, from, kLine);
#endif
}

inline void finish_lines() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// Writes an output piece by piece: fill room(), then push() it. With `past_caches` the pieces are
// in a buffer, from where their full lines are copied, else in the output itself.
class PieceWriter {
  public:
    // `buffer` has kLineRoom bytes more than the largest piece.
    PieceWriter(void* out, bool past_caches, void* buffer)
        : to_(static_cast<std::uint8_t*>(out)), past_caches_(past_caches) {
        if (!past_caches) return;
        foreign_ = held_ = phase_of(out);
        to_ -= held_;
        buffer_ = static_cast<std::uint8_t*>(buffer) + (kLine - phase_of(buffer)) % kLine;
    }

    void* room() { return past_caches_ ? buffer_ + held_ : to_; }

    void push(std::int64_t bytes) {
        if (!past_caches_) {
            to_ += bytes;
            return;
        }
        held_ += bytes;
        std::int64_t done = 0;
        if (foreign_ > 0 && held_ >= kLine) {
            std::memcpy(to_ + foreign_, buffer_ + foreign_,
                        static_cast<std::size_t>(kLine - foreign_));
            foreign_ = 0;
            done = kLine;
        }
        for (; done + kLine <= held_; done += kLine) copy_line(to_ + done, buffer_ + done);
        std::memmove(buffer_, buffer_ + done, kLine);  // of which held_ - done bytes count
        to_ += done;
        held_ -= done;
    }

    void finish() {
        if (!past_caches_) return;
        std::memcpy(to_ + foreign_, buffer_ + foreign_, static_cast<std::size_t>(held_ - foreign_));
        finish_lines();
    }

  private:
    std::uint8_t* to_;  // start of a line if past the caches
    bool past_caches_;
    std::uint8_t* buffer_ = nullptr;  // what belongs to `to_` and is not there yet
    std::int64_t held_ = 0;           // bytes in the buffer
    std::int64_t foreign_ = 0;        // bytes of the first line that belong to others
};

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
