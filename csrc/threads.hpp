// A pool of threads that sleep while there is no work, after a moment in which more may come. The
// number of threads is a parameter of every call; the pool grows to what was asked for and is made
// anew in a forked child.
#pragma once

#include <cstdint>

namespace attendrite {

// What to do with a task: any callable that lives as long as the call it is passed to.
class TaskBody {
  public:
    template <class Body>
    TaskBody(const Body& body)
        : body_(&body), call_([](const void* that, std::int64_t task) {
              (*static_cast<const Body*>(that))(task);
          }) {}

    void operator()(std::int64_t task) const { call_(body_, task); }

  private:
    const void* body_;
    void (*call_)(const void*, std::int64_t);
};

// Runs body(task) for every task in 0..tasks-1 on at most `threads` threads, the caller's included,
// and returns when all are done. Tasks are handed out in order, one at a time. The first exception
// of a task is rethrown here; tasks not begun by then are skipped. May be called from several
// threads at once and from inside a task. Takes no memory but for a thread that is new.
void parallel_for(std::int64_t tasks, int threads, TaskBody body);

}  // namespace attendrite
