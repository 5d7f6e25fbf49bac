// The products that make factored rows, alone: how fast they are beside what the processor can multiply and write.
//   taskset -c 0 build/tests/benchmark/tile_benchmark

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "hessian_mpi/engines/tile.hpp"

namespace {

namespace engines = hessian_mpi::engines;
using Clock = std::chrono::steady_clock;

// Seconds for one of many calls.
template <class Step>
double seconds_for(const Step& step) {
  step();
  int calls = 0;
  const auto start = Clock::now();
  double seconds = 0;
  while (seconds < 0.3) {
    step();
    ++calls;
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return seconds / calls;
}

std::vector<float> random_numbers(std::int64_t count) {
  static std::mt19937 random(1);
  std::normal_distribution<float> any;
  std::vector<float> numbers(static_cast<std::size_t>(count));
  std::generate(numbers.begin(), numbers.end(), [&] { return any(random); });
  return numbers;
}

struct Case {
  const char* of;
  std::int64_t inner, rows, panel, columns;
};

// A large product that stays in the caches: what this processor can multiply.
constexpr Case peak{"as large as the caches hold", 256, 96, 256, 256};
constexpr Case cases[] = {
    {"question, 8 samples", 8, 88, 8192, 23365},      {"LeNet, 64 samples", 64, 64, 1024, 61706},
    {"MLP 784, 64 samples", 64, 64, 1024, 55050},     {"MLP 64, 128 samples", 128, 64, 512, 8970},
    {"transformer, 256 tokens", 256, 32, 256, 13216}, {"ResNet-8, 1,024 places", 1024, 64, 576, 77850}};

void report(const Case& p, double bytes_a_second, double* best) {
  const auto left = random_numbers(p.inner * p.rows);
  const auto row = random_numbers(p.panel);
  engines::Strips<float> right(p.inner, p.panel);
  const auto fill = [&] {
    for (std::int64_t k = 0; k < p.inner; ++k) {
      engines::combine<float>(p.panel, 0.5F, row.data(), 0.1F, row.data(), right, k, 0);
    }
  };
  std::vector<float> out(static_cast<std::size_t>(p.rows * p.columns));
  std::int64_t column = 0;
  const auto multiply = [&] {
    engines::multiply(engines::Product<float>{left.data(), p.rows, right.factor()}, p.rows, out.data() + column,
                      p.columns);
    column = column + 2 * p.panel <= p.columns ? column + p.panel : 0;
  };
  const double filling = seconds_for(fill);
  const double multiplying = seconds_for(multiply);
  const double seconds = filling + multiplying;
  const auto operations = 2.0 * static_cast<double>(p.inner * p.rows * p.panel);
  const auto bytes = 4.0 * static_cast<double>(p.rows * p.panel);
  *best = std::max(*best, operations / multiplying);
  std::printf("%-28s %8.1f %8.1f %8.0f %% %8.2f %8.0f %%\n", p.of, operations / seconds / 1e9,
              operations / multiplying / 1e9, 100 * operations / seconds / *best, bytes / seconds / 1e9,
              100 * bytes / seconds / bytes_a_second);
}

}  // namespace

int main() {
  std::vector<char> memory(256 << 20);
  const double bytes_a_second =
      static_cast<double>(memory.size()) / seconds_for([&] { std::memset(memory.data(), 1, memory.size()); });
  std::printf("memory is filled at %.1f GB/s; products of small factors, float32, one core:\n", bytes_a_second / 1e9);
  std::printf("%-28s %8s %8s %10s %8s %10s\n", "", "GFlop/s", "no fill", "of best", "GB/s", "of memory");
  double best = 0;
  report(peak, bytes_a_second, &best);
  for (const auto& one : cases) report(one, bytes_a_second, &best);
}
