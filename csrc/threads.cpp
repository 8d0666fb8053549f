#include "threads.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace attendrite {
namespace {

// Waking a sleeping thread takes some ten microseconds; a model is a chain of short jobs.
constexpr std::chrono::microseconds kMoment{50};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits a moment for something; says whether it came.
template <class Done>
bool comes_soon(const Done& done) {
    const auto until = std::chrono::steady_clock::now() + kMoment;
    do {
        for (int i = 0; i < 32; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    return false;
}

struct Job {
    Job(TaskBody what, std::int64_t n, int helpers) : body(what), tasks(n), seats(helpers) {}

    const TaskBody body;
    const std::int64_t tasks;
    std::atomic<std::int64_t> next{0};
    // The rest is guarded by the pool's mutex; `active` may be read without it.
    int seats;  // threads that may still join
    std::atomic<int> active{0};
    std::exception_ptr error = nullptr;
    std::condition_variable left;
    Job *before = nullptr, *after = nullptr;  // in the pool's list
};

class Pool {
  public:
    void run(Job& job) {
        std::unique_lock lock(mutex_);
        grow(job.seats);
        const bool one_seat = job.seats == 1;  // a worker may take it once the lock is free
        append(job);
        lock.unlock();
        if (one_seat) {
            wake_.notify_one();
        } else {
            wake_.notify_all();
        }
        work(job);
        lock.lock();
        remove(job);  // nobody joins from here on
        if (job.active == 0) return;
        lock.unlock();
        const bool done = comes_soon([&] { return job.active.load() == 0; });
        lock.lock();  // whoever left last has let go of it
        if (!done) job.left.wait(lock, [&] { return job.active == 0; });
    }

    // The pool of this process; never destroyed, so that a worker may sleep through exit().
    static Pool& instance() {
        static std::once_flag once;
        std::call_once(once, [] {
            current_ = new Pool;
            // A child has none of its parent's workers, and perhaps a locked mutex: start afresh.
            pthread_atfork(nullptr, nullptr, [] { current_ = new Pool; });
        });
        return *current_;
    }

  private:
    void grow(int workers) {
        for (; size_ < workers; ++size_) std::thread([this] { serve(); }).detach();
    }

    [[noreturn]] void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            Job* job = open_job();
            if (job == nullptr) {
                const unsigned seen = posted_;
                lock.unlock();
                comes_soon([&] { return posted_.load() != seen; });
                lock.lock();
                wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
            }
            --job->seats;
            ++job->active;
            lock.unlock();
            work(*job);
            lock.lock();
            // Notify under the lock: the job lives on its caller's stack and ends once active is 0.
            if (--job->active == 0) job->left.notify_one();
        }
    }

    Job* open_job() const {
        Job* job = first_;
        while (job != nullptr &&
               (job->seats == 0 || job->next.load(std::memory_order_relaxed) >= job->tasks)) {
            job = job->after;
        }
        return job;
    }

    void append(Job& job) {
        job.before = last_;
        (last_ == nullptr ? first_ : last_->after) = &job;
        last_ = &job;
        ++posted_;
    }

    void remove(Job& job) {
        (job.before == nullptr ? first_ : job.before->after) = job.after;
        (job.after == nullptr ? last_ : job.after->before) = job.before;
    }

    void work(Job& job) {
        try {
            for (;;) {
                const std::int64_t task = job.next.fetch_add(1, std::memory_order_relaxed);
                if (task >= job.tasks) return;
                job.body(task);
            }
        } catch (...) {
            job.next.store(job.tasks, std::memory_order_relaxed);
            const std::lock_guard lock(mutex_);
            if (!job.error) job.error = std::current_exception();
        }
    }

    static inline Pool* current_ = nullptr;
    std::mutex mutex_;
    std::condition_variable wake_;
    Job *first_ = nullptr, *last_ = nullptr;
    std::atomic<unsigned> posted_{0};
    int size_ = 0;
};

}  // namespace

void parallel_for(std::int64_t tasks, int threads, TaskBody body) {
    const auto helpers = static_cast<int>(std::min<std::int64_t>(threads, tasks)) - 1;
    if (helpers < 1) {
        for (std::int64_t task = 0; task < tasks; ++task) body(task);
        return;
    }
    Job job(body, tasks, helpers);
    Pool::instance().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace attendrite
