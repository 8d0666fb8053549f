// A pool of threads that sleep while there is no work. The number of threads is a parameter of
// every call; the pool grows to what was asked for and is made anew in a forked child.
#pragma once

#include <cstdint>
#include <functional>

namespace attendrite {

// Runs body(task) for every task in 0..tasks-1 on at most `threads` threads, the caller's included,
// and returns when all are done. Tasks are handed out in order, one at a time. The first exception
// of a task is rethrown here; tasks not begun by then are skipped. May be called from several
// threads at once and from inside a task.
void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& body);

}  // namespace attendrite
