#pragma once
/// What torch.export took for granted about the inputs' sizes: for sizes that meet it not, Python would have gone
/// another way through the network. Internal to exported_program.

#include <ATen/core/ivalue.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hessian_mpi::network {

/// A condition such as "(L['x'].size()[0] % 2) == 0", in Python, with L for the inputs by name.
class Guard {
 public:
  /// Which of the inputs a name or a path into nested arguments ({"y", "0", "a"}) means; none: std::nullopt. What is
  /// named flat_args has a number of its own.
  using FindInput = std::function<std::optional<std::size_t>(const std::vector<std::string>& path)>;

  /// Throws std::invalid_argument for anything that is not such a condition.
  Guard(std::string code, const FindInput& find_input);
  ~Guard();
  Guard(Guard&&) noexcept;
  Guard& operator=(Guard&&) noexcept;
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  const std::string& code() const { return code_; }
  /// Throws std::exception where it cannot be computed: an input that has not so many dimensions, a division by zero.
  bool holds(const std::vector<c10::IValue>& inputs) const;

  struct Expression;

 private:
  std::string code_;
  std::unique_ptr<Expression> expression_;
};

}  // namespace hessian_mpi::network
