#include "matrix_operator.hpp"

#include <algorithm>
#include <vector>

#include "hessian_mpi/base/error.hpp"
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
    const auto rows = this->own().count();
    std::vector<std::int64_t> missing;
    std::vector<products::KeptProducts::Head> heads;
    std::vector<double> vectors;
    for (std::int64_t k = 0; k < count; ++k) {
      const auto* vector = own + k * rows;
      const auto head = kept_.head_of(vector);
      if (kept_.find(head, products + k * rows)) continue;
      missing.push_back(k);
      heads.push_back(head);
      vectors.insert(vectors.end(), vector, vector + rows);
    }
    if (missing.empty()) return;
    std::vector<double> made(vectors.size());
    network_.multiply(vectors.data(), static_cast<std::int64_t>(missing.size()), made.data());
    for (std::size_t j = 0; j < missing.size(); ++j) {
      const auto* product = made.data() + static_cast<std::int64_t>(j) * rows;
      std::copy_n(product, rows, products + missing[j] * rows);
      kept_.add(heads[j], product);
    }
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
