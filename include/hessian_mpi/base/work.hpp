#pragma once
/// What rows take to be made, as two kinds of operations whose speeds differ from network to network and machine to
/// machine.

namespace hessian_mpi {

/// In multiplications, or in any other unit: it is compared with other work alone.
struct Work {
  double passes = 0;  ///< through the network
  double others = 0;  ///< products of what those find, sums, and moving numbers
  double all() const { return passes + others; }
};

inline Work operator+(const Work& a, const Work& b) {
  return {a.passes + b.passes, a.others + b.others};
}
inline Work operator*(double times, const Work& work) {
  return {times * work.passes, times * work.others};
}

}  // namespace hessian_mpi
