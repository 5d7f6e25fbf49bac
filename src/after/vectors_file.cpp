#include "hessian_mpi/after/vectors_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <regex>
#include <sstream>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"

namespace hessian_mpi::after {
namespace {

// As many as fit beside their products into memory that people have.
constexpr std::uint64_t most_bytes = std::uint64_t{64} << 30;

// The dataset of a file whose rows are the vectors.
constexpr const char* rows_of_samples = "jacobian";

bool has_rows_of_samples(const std::string& path) {
  try {
    return hdf5::File::open_untrusted(path).has(rows_of_samples);
  } catch (const RunError&) {
    return false;
  }
}

// The count of vectors of a shape.
std::int64_t count_of(const std::vector<std::uint64_t>& shape, std::int64_t n, const std::string& name) {
  const auto length = static_cast<std::uint64_t>(n);
  const bool good = (shape.size() == 1 && shape[0] == length) || (shape.size() == 2 && shape[1] == length);
  std::vector<std::string> sizes;
  sizes.reserve(shape.size());
  for (const auto size : shape) sizes.push_back(text(size));
  if (!good) {
    throw InputError(text("'", name, "' has the shape [", joined(sizes, ", "), "]: the vectors of this matrix are [", n,
                          "] or [count, ", n, "]"));
  }
  const auto count = shape.size() == 1 ? 1 : shape[0];
  if (count == 0) throw InputError(text("'", name, "' has no vectors"));
  if (count > most_bytes / sizeof(double) / length)
    throw InputError(text("'", name, "' has too many vectors: ", count));
  return static_cast<std::int64_t>(count);
}

Vectors read_dataset(const std::string& path, const std::string& dataset, std::int64_t n) {
  try {
    const auto file = hdf5::File::open_untrusted(path);
    if (!file.has(dataset)) throw InputError(text("'", path, "' has no dataset '", dataset, "'"));
    if (dataset.ends_with(rows_of_samples) && file.integer_attribute("/", "complete") == 0) {
      throw InputError(text("'", path, "' is not complete: run its job to the end with --resume first"));
    }
    const auto shape = file.shape(dataset);
    const auto stored = file.stored_bytes(dataset);
    if (stored && *stored < file.needed_bytes(dataset).value_or(0)) throw RunError("it is shorter than its shape says");
    Vectors vectors{count_of(shape, n, path + ":" + dataset), {}};
    vectors.numbers.resize(static_cast<std::size_t>(vectors.count * n));
    file.read(dataset, hdf5::Type::float64, vectors.numbers.data());
    return vectors;
  } catch (const RunError& error) {
    throw InputError(text("'", path, ":", dataset, "' cannot be read: ", error.what()));
  }
}

// The shape of "(3, 5)", "(5,)" or "()".
std::vector<std::uint64_t> shape_of(const std::string& tuple) {
  std::vector<std::uint64_t> shape;
  std::istringstream in(tuple);
  for (std::string size; std::getline(in, size, ',');) {
    if (size.find_first_of("0123456789") != std::string::npos) shape.push_back(std::stoull(size));
  }
  return shape;
}

template <class Number>
void read_numbers(std::istream& in, std::vector<double>& numbers, const std::string& name) {
  std::vector<Number> stored(numbers.size());
  const auto bytes = static_cast<std::streamsize>(stored.size() * sizeof(Number));
  if (!in.read(reinterpret_cast<char*>(stored.data()), bytes)) throw InputError(text("'", name, "' ends too early"));
  std::copy(stored.begin(), stored.end(), numbers.begin());
}

// The format of numpy.save: a magic string, a version, the length of a header, the header in Python's words.
Vectors read_npy(std::ifstream& in, const std::string& name, std::int64_t n) {
  std::array<char, 8> magic{};
  in.read(magic.data(), magic.size());
  std::uint32_t length = 0;
  in.read(reinterpret_cast<char*>(&length), magic[6] == 1 ? 2 : 4);
  constexpr std::uint32_t longest_header = 1 << 16;
  std::string header(std::min(length, longest_header), '\0');
  in.read(header.data(), static_cast<std::streamsize>(header.size()));
  std::smatch found;
  static const std::regex pattern(
      R"(\{\s*'descr':\s*'(<f4|<f8)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9, ]{0,60})\))");
  if (!in || !std::regex_search(header, found, pattern)) {
    throw InputError(text("'", name, "' does not hold float32 or float64 numbers as numpy.save writes them"));
  }
  const auto shape = shape_of(found[3]);
  Vectors vectors{count_of(shape, n, name), {}};
  if (found[2] == "True" && vectors.count > 1) {
    throw InputError(text("'", name, "' is in Fortran's order: save numpy.ascontiguousarray() of it"));
  }
  vectors.numbers.resize(static_cast<std::size_t>(vectors.count * n));
  found[1] == "<f4" ? read_numbers<float>(in, vectors.numbers, name) : read_numbers<double>(in, vectors.numbers, name);
  return vectors;
}

Vectors read_text(std::ifstream& in, const std::string& name, std::int64_t n) {
  Vectors vectors;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    const auto before = vectors.numbers.size();
    for (double number = 0; words >> number;) vectors.numbers.push_back(number);
    if (!words.eof()) throw InputError(text("'", name, "' has what is not a number: ", printable(line, 60)));
    const auto found = vectors.numbers.size() - before;
    if (found == 0) continue;
    if (found != static_cast<std::size_t>(n)) {
      throw InputError(text("'", name, "' has a line of ", found, " numbers: each is a vector of ", n));
    }
    ++vectors.count;
  }
  if (vectors.count == 0) throw InputError(text("'", name, "' has no vectors"));
  return vectors;
}

Vectors read_any(const std::string& name, std::int64_t n) {
  const auto file = file_of_vectors(name);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) throw InputError(text("'", name, "': no such file"));
  if (file != name) {
    if (!hdf5::is_hdf5(file)) throw InputError(text("'", file, "' is not an HDF5 file, whose datasets have names"));
    return read_dataset(file, name.substr(file.size() + 1), n);
  }
  if (hdf5::is_hdf5(name)) {
    if (has_rows_of_samples(name)) return read_dataset(name, rows_of_samples, n);
    throw InputError(text("name the dataset of '", name, "' that has the vectors: '", name, ":path/of/dataset'"));
  }
  std::ifstream in(name, std::ios::binary);
  std::array<char, 6> begin{};
  in.read(begin.data(), begin.size());
  in.clear();
  in.seekg(0);
  constexpr std::array<char, 6> magic{'\x93', 'N', 'U', 'M', 'P', 'Y'};
  return begin == magic ? read_npy(in, name, n) : read_text(in, name, n);
}

}  // namespace

void expect_same_vectors(const std::string& name, const std::vector<double>& numbers,
                         const ranks::Communicator& communicator) {
  const auto sum = text(xxh3(numbers.data(), numbers.size() * sizeof(double)));
  ranks::expect_same_files({{name, sum}}, communicator);
}

// Names of files may have colons, too.
std::string file_of_vectors(const std::string& name) {
  std::error_code ignored;
  if (std::filesystem::exists(name, ignored)) return name;
  for (auto colon = name.find(':'); colon != std::string::npos; colon = name.find(':', colon + 1)) {
    auto file = name.substr(0, colon);
    if (std::filesystem::exists(file, ignored)) return file;
  }
  return name;
}

Vectors read_vectors(const std::string& name, std::int64_t n) {
  auto vectors = read_any(name, n);
  const auto wrong = std::find_if_not(vectors.numbers.begin(), vectors.numbers.end(),
                                      [](double number) { return std::isfinite(number); });
  if (wrong == vectors.numbers.end()) return vectors;
  const auto place = wrong - vectors.numbers.begin();
  throw InputError(text("'", name, "' has a number that is not finite: entry ", place % n, " of vector ", place / n));
}

std::vector<double> random_signs(std::int64_t count, const Rows& rows, std::uint64_t seed) {
  std::vector<double> signs;
  signs.reserve(static_cast<std::size_t>(count * rows.count()));
  for (std::int64_t v = 0; v < count; ++v) {
    std::mt19937_64 random(seed + static_cast<std::uint64_t>(v) * 0x9e3779b97f4a7c15);
    random.discard(static_cast<unsigned long long>(rows.begin));
    // A bit alone: what the standard's distributions draw differs among libraries.
    for (auto i = rows.begin; i < rows.end; ++i) signs.push_back((random() & 1) != 0 ? 1 : -1);
  }
  return signs;
}

}  // namespace hessian_mpi::after
