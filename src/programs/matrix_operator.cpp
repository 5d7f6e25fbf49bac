#include "matrix_operator.hpp"

#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/solvers/stored_operator.hpp"

namespace hessian_mpi::programs {
namespace {

class NetworkOperator final : public solvers::SymmetricOperator {
 public:
  NetworkOperator(products::Network& network, products::KeptProducts& kept, const ranks::Communicator& world)
      : SymmetricOperator(network.layout().matrix.columns, network.own(), world), network_(network), kept_(kept) {}

 private:
  void apply(const double* own, std::int64_t count, double* products) override {
    products::multiply(network_, kept_, products::Match::rounding, own, count, products);
  }

  products::Network& network_;
  products::KeptProducts& kept_;
};

}  // namespace

std::unique_ptr<solvers::SymmetricOperator> operator_of(const OpenedMatrix& opened, const Block& block,
                                                        const ranks::Communicator& world) {
  if (opened.network) return std::make_unique<NetworkOperator>(*opened.network, *opened.kept, world);
  const Stopwatch watch;
  auto matrix =
      std::make_unique<solvers::StoredOperator>(opened.file, opened.hessian.matrix, block.ranges, opened.memory, world);
  const auto bytes = text_of_bytes(bytes_of(opened.hessian, block));
  cli::say(world, "read",
           matrix->in_memory() ? text(bytes, " in ", text_of_seconds(watch.seconds()))
                               : text(bytes, " again for every product: more than --memory"));
  return matrix;
}

}  // namespace hessian_mpi::programs
