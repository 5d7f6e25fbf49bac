#pragma once
/// Rows that an engine makes on a GPU, on their way to the host. Internal to the engines.

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <optional>

namespace hessian_mpi::engines {

/// Takes rows one after the other and copies many at a time to the host: through pinned memory and on a stream of its
/// own, so that the next are made meanwhile. On the CPU it copies at once.
template <class Number>
class RowsFromDevice {
 public:
  /// options: dtype and device of the rows. out: takes [rows][columns] numbers, and must outlive the object.
  RowsFromDevice(const at::TensorOptions& options, std::int64_t rows, std::int64_t columns, Number* out);

  /// row: [columns], made on the calling thread's current stream.
  void put(const at::Tensor& row);

  /// Waits until all rows are in out.
  void finish();

 private:
  // Half of the rows under way: one is filled while the other is copied.
  struct Half {
    at::Tensor on_device;  // [rows][columns]
    at::Tensor on_host;    // pinned where a GPU copies into it
    std::optional<c10::Event> copied;
    std::int64_t count = 0;
  };
  void send(Half& half);
  void receive(Half& half);

  c10::Device device_;
  std::optional<c10::Stream> copying_;  // on a GPU
  std::array<Half, 2> halves_;
  std::size_t filled_ = 0;
  Number* next_;  // in out
};

}  // namespace hessian_mpi::engines
