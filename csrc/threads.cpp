#include "threads.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <thread>

namespace attendrite {
namespace {

struct Job {
    const std::function<void(std::int64_t)>& body;
    const std::int64_t tasks;
    std::atomic<std::int64_t> next{0};
    // The rest is guarded by the pool's mutex.
    int seats;  // threads that may still join
    int active = 0;
    std::exception_ptr error = nullptr;
    std::condition_variable left = {};
};

class Pool {
  public:
    void run(Job& job) {
        std::unique_lock lock(mutex_);
        grow(job.seats);
        const auto place = jobs_.insert(jobs_.end(), &job);
        const bool one_seat = job.seats == 1;  // a worker may take it once the lock is free
        lock.unlock();
        if (one_seat) {
            wake_.notify_one();
        } else {
            wake_.notify_all();
        }
        work(job);
        lock.lock();
        jobs_.erase(place);  // nobody joins from here on
        job.left.wait(lock, [&] { return job.active == 0; });
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
            Job* job = nullptr;
            wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
            --job->seats;
            ++job->active;
            lock.unlock();
            work(*job);
            lock.lock();
            // Notify under the lock: the job lives on its caller's stack and ends once active is 0.
            if (--job->active == 0) job->left.notify_one();
        }
    }

    Job* open_job() {
        const auto found = std::find_if(jobs_.begin(), jobs_.end(), [](const Job* job) {
            return job->seats > 0 && job->next.load(std::memory_order_relaxed) < job->tasks;
        });
        return found == jobs_.end() ? nullptr : *found;
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
    std::list<Job*> jobs_;
    int size_ = 0;
};

}  // namespace

void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& body) {
    const auto helpers = static_cast<int>(std::min<std::int64_t>(threads, tasks)) - 1;
    if (helpers < 1) {
        for (std::int64_t task = 0; task < tasks; ++task) body(task);
        return;
    }
    Job job{body, tasks, {0}, helpers};
    Pool::instance().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace attendrite
