#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "threads.hpp"

using attendrite::parallel_for;

namespace {

bool each_task_once(std::int64_t tasks, int threads) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(tasks));
    parallel_for(tasks, threads,
                 [&](std::int64_t task) { ++seen[static_cast<std::size_t>(task)]; });
    for (const auto& count : seen) {
        if (count != 1) return false;
    }
    return true;
}

void every_task_runs_once() {
    for (const std::int64_t tasks : {0, 1, 2, 17, 1000}) {
        for (const int threads : {-1, 0, 1, 2, 7}) CHECK(each_task_once(tasks, threads));
    }
}

void an_exception_reaches_the_caller() {
    for (int round = 0; round < 50; ++round) {
        std::atomic<int> ran{0};
        const std::string message = thrown_by([&] {
            parallel_for(100, 4, [&](std::int64_t task) {
                ++ran;
                if (task == 5) throw std::runtime_error("task 5");
            });
        });
        CHECK(message == "task 5");
        CHECK(ran <= 100);
    }
    CHECK(each_task_once(100, 4));
}

void tasks_may_have_tasks() {
    std::atomic<int> sum{0};
    parallel_for(8, 3, [&](std::int64_t) { parallel_for(10, 3, [&](std::int64_t) { ++sum; }); });
    CHECK(sum == 80);
}

void many_callers() {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 6; ++i) {
        callers.emplace_back([&] {
            for (int round = 0; round < 100; ++round) wrong += each_task_once(37, 3) ? 0 : 1;
        });
    }
    for (auto& caller : callers) caller.join();
    CHECK(wrong == 0);
}

void a_forked_child_has_its_own_pool() {
    const pid_t child = fork();
    if (child == 0) _exit(each_task_once(100, 3) ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(each_task_once(100, 3));
}

}  // namespace

int main(int argc, char**) {
    every_task_runs_once();
    if (argc > 1) {  // apart: neither ThreadSanitizer nor QEMU can follow threads made after a fork
        a_forked_child_has_its_own_pool();
        return failures() == 0 ? 0 : 1;
    }
    an_exception_reaches_the_caller();
    tasks_may_have_tasks();
    many_callers();
    return failures() == 0 ? 0 : 1;
}
