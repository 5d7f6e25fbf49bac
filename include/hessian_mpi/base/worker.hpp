#pragma once
/// A thread that takes one piece of work after another, beside the thread that owns it. The same thread for all pieces:
/// what libraries set up for each thread is set up once.

#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace hessian_mpi {

class Worker {
 public:
  Worker();
  /// Waits for the piece at hand.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Begins a piece of work, when the one before has ended. The result holds what it throws.
  std::future<void> begin(std::function<void()> work);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::packaged_task<void()> next_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace hessian_mpi
