#include "hessian_mpi/products/shared_sum.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::products {
namespace {

struct Unit {
  std::int64_t batch;
  std::int64_t sum;
};

// Which vectors are made at the same time, one by each rank. Those of one sum come in the order of batches, by rounds
// and then by ranks.
class Rounds {
 public:
  Rounds(std::int64_t batches, std::int64_t sums, int ranks)
      : batches_(batches), count_(sums), ranks_(ranks), whole_batches_(batches_ >= ranks) {}

  std::int64_t count() const {
    const auto rounds_of = [&](std::int64_t units) { return (units + ranks_ - 1) / ranks_; };
    return whole_batches_ ? rounds_of(batches_) * count_ : rounds_of(batches_ * count_);
  }
  // What a rank makes, if anything. A batch that is one rank's has its graph made there once for all sums.
  std::optional<Unit> unit(std::int64_t round, int rank) const {
    const auto place = (whole_batches_ ? round / count_ : round) * ranks_ + rank;
    const Unit unit = whole_batches_ ? Unit{place, round % count_} : Unit{place / count_, place % count_};
    return unit.batch < batches_ ? std::optional(unit) : std::nullopt;
  }

 private:
  std::int64_t batches_;
  std::int64_t count_;
  std::int64_t ranks_;
  bool whole_batches_;
};

// What one exchange takes from a rank's elements, so that no rank sends or gets more than MPI can count.
template <class Number>
std::int64_t elements_at_once(int ranks) {
  constexpr std::int64_t most_bytes = 1 << 29;
  return std::max<std::int64_t>(1, most_bytes / static_cast<std::int64_t>(sizeof(Number)) / ranks);
}

// Adds up what the ranks have made in a round.
template <class Number>
class Exchange {
 public:
  Exchange(std::int64_t n, const ranks::Communicator& communicator)
      : n_(n),
        communicator_(communicator),
        own_(elements_of_rank(n, communicator.rank(), communicator.size())),
        most_(n / communicator.size() + 1) {}

  const Rows& own() const { return own_; }

  // Collective. made: this rank's vector, null where it has made none. units: what each rank has made, in order.
  void add(const Number* made, const std::vector<std::optional<Unit>>& units, double* sums) {
    const auto step = elements_at_once<Number>(communicator_.size());
    for (std::int64_t begin = 0; begin < most_; begin += step) {
      const auto counts = hand_out(made, begin, begin + step);
      const auto got = communicator_.exchange(bytes_, counts);
      const Rows some = part_of(own_, begin, begin + step);
      const auto* numbers = reinterpret_cast<const Number*>(got.data());
      for (std::size_t rank = 0; rank < units.size(); ++rank) {
        if (!units[rank]) continue;
        const bool here = static_cast<int>(rank) == communicator_.rank();
        const Number* from = here ? made + some.begin : numbers;
        double* sum = sums + units[rank]->sum * own_.count() + some.begin - own_.begin;
        for (std::int64_t k = 0; k < some.count(); ++k) sum[k] += from[k];
        if (!here) numbers += some.count();
      }
    }
  }

 private:
  static Rows part_of(const Rows& elements, std::int64_t begin, std::int64_t end) {
    return {std::min(elements.begin + begin, elements.end), std::min(elements.begin + end, elements.end)};
  }
  // Fills bytes_ with what the other ranks are to get of this one's vector; how much that is.
  std::vector<int> hand_out(const Number* made, std::int64_t begin, std::int64_t end) {
    std::vector<int> counts(static_cast<std::size_t>(communicator_.size()), 0);
    bytes_.clear();
    for (int rank = 0; rank < communicator_.size() && made != nullptr; ++rank) {
      if (rank == communicator_.rank()) continue;
      const Rows some = part_of(elements_of_rank(n_, rank, communicator_.size()), begin, end);
      const auto* from = reinterpret_cast<const char*>(made + some.begin);
      const auto size = static_cast<std::size_t>(some.count()) * sizeof(Number);
      bytes_.insert(bytes_.end(), from, from + size);
      counts[static_cast<std::size_t>(rank)] = static_cast<int>(size);
    }
    return counts;
  }

  std::int64_t n_;
  const ranks::Communicator& communicator_;
  Rows own_;
  std::int64_t most_;  // elements of a rank, at most
  std::vector<char> bytes_;
};

}  // namespace

Rows elements_of_rank(std::int64_t n, int rank, int ranks) {
  const auto share = matrix::share(n, rank, ranks);
  return {share.begin, share.end};
}

template <class Number>
void sum_over_batches(const Summands<Number>& summands, double* sums, const std::function<void()>& between,
                      const ranks::Communicator& communicator) {
  const Rounds rounds(summands.batches, summands.count, communicator.size());
  Exchange<Number> exchange(summands.n, communicator);
  std::fill_n(sums, summands.count * exchange.own().count(), 0.0);
  std::vector<Number> made;
  for (std::int64_t round = 0; round < rounds.count(); ++round) {
    if (between) between();
    std::vector<std::optional<Unit>> units;
    units.reserve(static_cast<std::size_t>(communicator.size()));
    for (int rank = 0; rank < communicator.size(); ++rank) units.push_back(rounds.unit(round, rank));
    const auto& own = units[static_cast<std::size_t>(communicator.rank())];
    communicator.together([&] {
      if (!own) return;
      made.resize(static_cast<std::size_t>(summands.n));
      summands.make(own->batch, own->sum, made.data());
    });
    exchange.add(own ? made.data() : nullptr, units, sums);
  }
}

template void sum_over_batches(const Summands<float>&, double*, const std::function<void()>&,
                               const ranks::Communicator&);
template void sum_over_batches(const Summands<double>&, double*, const std::function<void()>&,
                               const ranks::Communicator&);

}  // namespace hessian_mpi::products
