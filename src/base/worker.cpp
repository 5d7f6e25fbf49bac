#include "hessian_mpi/base/worker.hpp"

#include <utility>

namespace hessian_mpi {

Worker::Worker() : thread_([this] { run(); }) {}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::future<void> Worker::begin(std::function<void()> work) {
  std::packaged_task<void()> task(std::move(work));
  auto result = task.get_future();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !next_.valid(); });
    next_ = std::move(task);
  }
  changed_.notify_all();
  return result;
}

void Worker::run() {
  while (true) {
    std::packaged_task<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ending_ || next_.valid(); });
      if (!next_.valid()) return;
      task = std::exchange(next_, {});
    }
    changed_.notify_all();
    task();
  }
}

}  // namespace hessian_mpi
