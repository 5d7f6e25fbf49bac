// Every layer of torch.nn and every loss, in both formats, by rows and by layers, against the oracles of
// tests/models/operators.py. What comes of each is the table tests/operators.md, which must be what is found now. To
// make it again:
//
//   cmake --build build --target operator_table

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <ostream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "all_layers.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "network_folder.hpp"

namespace hessian_mpi::network {
namespace {

constexpr const char* variable_for_table = "HESSIAN_MPI_OPERATOR_TABLE";  // the file to write it to, instead of a test

// Largest difference over the largest element. Differences of gradients are exact to some digits only.
constexpr double tolerance_to_double_backward = 1e-9;
constexpr double tolerance_to_differences = 1e-6;
constexpr double tolerance_in_float32 = 1e-3;

std::filesystem::path folder_of_networks() {
  return std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "operators";
}

struct Network {
  std::string folder;
  std::string name;
  std::string oracle;  // what the reference is believed for
  friend std::ostream& operator<<(std::ostream& out, const Network& network) { return out << network.name; }
};

std::vector<Network> networks() {
  std::vector<Network> found;
  for (const auto& line : text_lines(folder_of_networks() / "cases")) {
    std::istringstream parts(line);
    Network network;
    std::getline(parts, network.folder, '\t');
    std::getline(parts, network.name, '\t');
    std::getline(parts, network.oracle);
    found.push_back(network);
  }
  return found;
}

constexpr const char* formats[] = {"pt", "pt2"};

LoadedProblem load(const Network& network, const std::string& format, Precision precision) {
  const auto* file = format == "pt" ? "options" : "options2";
  return load_as_the_program_does(options_in(folder_of_networks() / network.folder, file), precision);
}

std::vector<double> all_rows(engines::Engine& engine, const Problem& problem) {
  const auto n = problem.index().size();
  std::vector<double> numbers(static_cast<std::size_t>(n * n), std::numeric_limits<double>::quiet_NaN());
  engine.compute({0, n}, {0, n}, Precision::float64, numbers.data(), [](double) {});
  return numbers;
}

// Infinite where a number is none, or where the matrices are not of one size.
double relative_difference(const std::vector<double>& found, const std::vector<double>& expected) {
  if (found.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  double worst = 0;
  for (std::size_t k = 0; k < found.size(); ++k) {
    const double difference = std::abs(found[k] - expected[k]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(expected[k]));
  }
  return largest == 0 ? worst : worst / largest;
}

// ---- One network in one format

// What makes the program wrong: then there is no line for the table.
using Faults = std::vector<std::string>;

void compare(const char* what, const std::vector<double>& found, const std::vector<double>& expected, double tolerance,
             Faults& faults) {
  const double difference = relative_difference(found, expected);
  if (difference > tolerance) faults.push_back(text(what, " are wrong by ", difference));
}

// The same masks, the same statistics, and no optimiser that takes over.
void expect_same_in_every_forward(const Problem& problem, Faults& faults) {
  const auto first = evaluate(problem);
  for (int call = 2; call <= 4; ++call) {
    const auto again = evaluate(problem);
    if (again.loss == first.loss && again.gradient == first.gradient) continue;
    faults.push_back(text("forward ", call, " differs from the first"));
  }
}

// Both ways of deriving, in float64; the rows, and what has been done in another way than PyTorch does it.
std::vector<double> check_in_float64(const Network& network, const std::string& format, Faults& faults,
                                     std::vector<std::string>& cures) {
  const auto loaded = load(network, format, Precision::float64);
  cures = loaded.cures;
  expect_same_in_every_forward(loaded.problem, faults);
  engines::DoubleBackward row_by_row(loaded.problem);
  auto rows = all_rows(row_by_row, loaded.problem);
  AllLayers by_layer(loaded.problem, std::uint64_t{1} << 30);
  compare("layers, against rows,", all_rows(by_layer, loaded.problem), rows, tolerance_to_double_backward, faults);
  if (network.oracle.starts_with("none")) {
    faults.push_back(text("there is no reference (", network.oracle, ")"));
  } else {
    const bool exact = !network.oracle.starts_with("differences");
    compare("rows", rows, reference_in(folder_of_networks() / network.folder),
            exact ? tolerance_to_double_backward : tolerance_to_differences, faults);
  }
  expect_same_in_every_forward(loaded.problem, faults);
  return rows;
}

// Adds what is done in float32 alone, where oneDNN has kernels; its rows against those in float64.
void check_in_float32(const Network& network, const std::string& format, const std::vector<double>& rows,
                      Faults& faults, std::vector<std::string>& cures) {
  const auto loaded = load(network, format, Precision::float32);
  engines::DoubleBackward row_by_row(loaded.problem);
  const auto n = loaded.problem.index().size();
  std::vector<float> coarse(static_cast<std::size_t>(n * n));
  row_by_row.compute({0, n}, {0, n}, Precision::float32, coarse.data(), [](double) {});
  compare("rows in float32", {coarse.begin(), coarse.end()}, rows, tolerance_in_float32, faults);
  for (const auto& cure : loaded.cures) {
    if (std::find(cures.begin(), cures.end(), cure) == cures.end()) cures.push_back(text("in float32: ", cure));
  }
}

// Without folders, which are others on each machine.
std::string in_one_cell(std::string message) {
  message = std::regex_replace(message, std::regex(R"((/[^\s'"()/]+)+/(?=[^\s'"()/]+))"), "");
  std::replace(message.begin(), message.end(), '|', ' ');
  std::replace(message.begin(), message.end(), '\n', ' ');
  return message;
}

std::string reason_for_absence(const Network& network, const std::string& format) {
  for (const auto& line : text_lines(folder_of_networks() / network.folder / "absent")) {
    if (line.starts_with(text(format, ": "))) return line.substr(format.size() + 2);
  }
  return "";
}

std::string verdict_of(const Network& network, const std::string& format, Faults& faults) {
  const auto absent = reason_for_absence(network, format);
  if (!absent.empty()) return text("not in this format: PyTorch says ", absent);
  std::vector<std::string> cures;
  std::vector<double> rows;
  try {
    rows = check_in_float64(network, format, faults, cures);
  } catch (const InputError& error) {
    return text("refused: ", error.what());
  }
  std::string narrow;
  try {
    check_in_float32(network, format, rows, faults, cures);
  } catch (const InputError& error) {
    narrow = text("; refused in float32: ", error.what());
  }
  std::string verdict = cures.empty() ? "right" : "cured: ";
  for (std::size_t k = 0; k < cures.size(); ++k) verdict += text(k == 0 ? "" : "; ", cures[k]);
  return verdict + narrow;
}

// ---- The table

// The lines of one case, one for each format, or one for both.
std::vector<std::string> lines_for(const Network& network, Faults& faults) {
  std::vector<std::string> verdicts;
  for (const auto* format : formats) {
    Faults here;
    try {
      verdicts.push_back(in_one_cell(verdict_of(network, format, here)));
    } catch (const std::exception& error) {
      here.push_back(text("no message but an exception: ", error.what()));
      verdicts.emplace_back("failed");
    }
    for (const auto& fault : here) faults.push_back(text(network.name, " as ", format, ": ", fault));
  }
  const auto line = [&](const std::string& which, const std::string& verdict) {
    return text("| ", network.name, " | ", which, " | ", verdict, " |");
  };
  if (verdicts[0] == verdicts[1]) return {line(".pt, .pt2", verdicts[0])};
  return {line(".pt", verdicts[0]), line(".pt2", verdicts[1])};
}

std::string layer_of(const std::string& line) {
  return line.substr(2, line.find(" | ") - 2);
}

// By layer.
std::map<std::string, std::vector<std::string>> table() {
  std::map<std::string, std::vector<std::string>> lines;
  for (const auto& line : text_lines(HESSIAN_MPI_OPERATOR_TABLE)) {
    if (line.starts_with("| ") && !line.starts_with("| layer |")) lines[layer_of(line)].push_back(line);
  }
  return lines;
}

class Operator : public testing::TestWithParam<Network> {};

TEST_P(Operator, DoesWhatTheTableSays) {
  if (std::getenv(variable_for_table) != nullptr) GTEST_SKIP() << "the table is made";
  if (GetParam().name == "Embedding sparse" && torch::Device(HESSIAN_MPI_TEST_DEVICE).is_cuda())
    GTEST_SKIP() << "sparse tensors are not simulated";
  Faults faults;
  const auto found = lines_for(GetParam(), faults);
  for (const auto& fault : faults) ADD_FAILURE() << fault;
  EXPECT_EQ(found, table()[GetParam().name])
      << "make the table again where this is what should be: cmake --build build --target operator_table";
}

const auto name_of_test = [](const testing::TestParamInfo<Network>& info) { return info.param.folder; };
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Operator);
INSTANTIATE_TEST_SUITE_P(Networks, Operator, testing::ValuesIn(networks()), name_of_test);

TEST(OperatorTable, HasTheCasesAndNoOthers) {
  if (std::getenv(variable_for_table) != nullptr) GTEST_SKIP() << "the table is made";
  std::set<std::string> cases, lines;
  for (const auto& network : networks()) cases.insert(network.name);
  for (const auto& [layer, verdicts] : table()) lines.insert(layer);
  EXPECT_GE(cases.size(), 120U) << "made by tests/models/operators.py";
  EXPECT_EQ(cases, lines);
}

constexpr const char* heading = R"(# What the program makes of every layer and loss

Made by running it: `cmake --build build --target operator_table`. Each line is a small network around one layer of
torch.nn or one operator, or with one loss, as TorchScript (`.pt`; losses as a scripted file) and as exported program
(`.pt2`; losses as `--loss output`), in float64 and float32, in eval mode where the name does not say `train`. A test
runs all of it again and fails where it finds anything else.

- **right**: all rows, by double-backward and by layer, are those of PyTorch's double-backward in float64, which differences
  of the gradient confirm. The fourth forward is the first, bit by bit: masks and running statistics included.
- **cured**: so they are, or those of the differences where PyTorch's double-backward is missing or wrong, because the
  program changes something by itself; it says so in a warning, which is what stands here.
- **refused**: the message that the program ends with, before it computes anything.
- **not in this format**: what PyTorch says where it cannot write the network in it.

| layer | format | verdict |
|---|---|---|
)";

TEST(OperatorTable, IsWrittenOnRequest) {
  const char* file = std::getenv(variable_for_table);
  if (file == nullptr) GTEST_SKIP() << "not asked for";
  std::ofstream out(file);
  out << heading;
  for (const auto& network : networks()) {
    Faults faults;
    for (const auto& line : lines_for(network, faults)) out << line << '\n';
    for (const auto& fault : faults) ADD_FAILURE() << fault;
  }
}

}  // namespace
}  // namespace hessian_mpi::network
