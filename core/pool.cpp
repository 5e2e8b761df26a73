// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace wcodec {
namespace {

struct Job {
    Task task;
    void* context;
    size_t n_tasks;
    size_t max_helpers;
    std::atomic<size_t> next{0};
    // Guarded by the pool's mutex.
    size_t n_helpers = 0;  // workers that ever joined; gives each its slot
    size_t n_active = 0;   // workers inside the job now

    void work(size_t slot) {
        for (size_t index = next.fetch_add(1, std::memory_order_relaxed); index < n_tasks;
             index = next.fetch_add(1, std::memory_order_relaxed))
            task(context, index, slot);
    }
    bool wants_help() const {
        return n_helpers < max_helpers && next.load(std::memory_order_relaxed) < n_tasks;
    }
};

// Never destroyed: workers may be asleep in it when the interpreter ends.
class Pool {
public:
    void run(Job& job) {
        {
            std::lock_guard lock(mutex_);
            grow(job.max_helpers);
            jobs_.push_back(&job);
        }
        wake_.notify_all();
        job.work(0);
        std::unique_lock lock(mutex_);
        std::erase(jobs_, &job);  // from here on no further worker can join
        done_.wait(lock, [&] { return job.n_active == 0; });
    }

private:
    void grow(size_t n_workers) {
        for (; n_workers_ < n_workers; ++n_workers_) {
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::system_error&) {
                return;
            }
        }
    }

    Job* find_job() {
        const auto found =
            std::find_if(jobs_.begin(), jobs_.end(), [](Job* job) { return job->wants_help(); });
        return found == jobs_.end() ? nullptr : *found;
    }

    void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            Job* job = nullptr;
            wake_.wait(lock, [&] { return (job = find_job()) != nullptr; });
            const size_t slot = ++job->n_helpers;
            ++job->n_active;
            lock.unlock();
            job->work(slot);
            lock.lock();
            if (--job->n_active == 0) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::vector<Job*> jobs_;
    size_t n_workers_ = 0;
};

std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        current_pool = new Pool;
        // The child of a fork has none of the workers, and may have copied a locked mutex: it
        // starts afresh.
        pthread_atfork(nullptr, nullptr, [] { current_pool = new Pool; });
    });
    return *current_pool;
}

}  // namespace

void run_tasks(size_t n_tasks, size_t n_threads, Task task, void* context) {
    const size_t max_helpers = std::min(n_threads, n_tasks) - (n_tasks > 0 ? 1 : 0);
    Job job{task, context, n_tasks, max_helpers};
    if (max_helpers == 0) {
        job.work(0);
    } else {
        pool().run(job);
    }
}

}  // namespace wcodec
