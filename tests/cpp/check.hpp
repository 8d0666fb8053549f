// CHECK(condition): reports a failure and goes on; main() returns failures().
#pragma once

#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>

#include "cpu.hpp"

inline int& failures() {
    static int count = 0;
    return count;
}

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            std::fprintf(stderr, "%s:%d (level %s): %s\n", __FILE__, __LINE__,         \
                         attendrite::level_name(attendrite::cpu_level()), #condition); \
            ++failures();                                                              \
        }                                                                              \
    } while (false)

// The message of the std::exception that `call` throws, "" when it throws none.
inline std::string thrown_by(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Calls test once for every level that this machine can run.
inline void on_every_level(const std::function<void()>& test) {
    for (const auto level : attendrite::kLevels) {
        if (!attendrite::level_usable(level)) {
            std::printf("level %s: not on this machine\n", attendrite::level_name(level));
            continue;
        }
        attendrite::force_level(attendrite::level_name(level));
        test();
    }
}
