// SPDX-License-Identifier: Apache-2.0
//
// The one thread pool of the process. Callers from any number of Python threads share its workers;
// each caller works on its own job too, so a job always proceeds. Workers start on first need and
// sleep between jobs. A forked child gets a pool of its own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wcodec {

// task(context, index, slot): slot < n_threads numbers the threads that work on this job, so that
// it can pick working memory.
using Task = void (*)(void* context, size_t index, size_t slot);

constexpr size_t MAX_THREADS = 256;

// Run task for every index in [0, n_tasks) on at most n_threads threads, the caller included, and
// return when all are done. 1 <= n_threads <= MAX_THREADS. Where the system refuses a thread, fewer
// work.
void run_tasks(size_t n_tasks, size_t n_threads, Task task, void* context);

}  // namespace wcodec
