#include "hessian_mpi/products/kept_products.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::products {
namespace {

using Head = KeptProducts::Head;
constexpr std::size_t bytes_of_head = sizeof(Head);
static_assert(std::is_trivially_copyable_v<Head>);

constexpr double seconds_between_syncs = 60;
constexpr double most_seconds_left_out = 60;
constexpr std::uint64_t large_product = 1 << 20;  // smaller ones are written at once
// Parts of a vector's length: more than rounding makes of it, less than any result depends on.
constexpr double same_vector = 1e-11;

bool is_sound(const Head& head) {
  return xxh3(&head, offsetof(Head, sum)) == head.sum;
}

Head head_in(const std::string& heads, std::uint64_t k) {
  Head head{};
  std::memcpy(&head, heads.data() + k * bytes_of_head, bytes_of_head);
  return head;
}

// How the file begins, and after it lines that say what multiplies.
struct Beginning {
  std::array<char, 24> magic{"hessian_mpi products 2\n"};
  std::uint64_t bytes = 0;  // of the lines
  std::uint64_t sum = 0;    // XXH3 of the lines
  std::uint64_t replaces_output = 0;
};

std::uint64_t place_after(const Beginning& beginning) {
  constexpr std::uint64_t unit = 4096;
  return (sizeof(Beginning) + beginning.bytes + unit - 1) / unit * unit;
}

// SplitMix64.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// "loss: mse" and the like. Threads change the last digits alone.
std::string lines_of(const file::StoredLayout& job) {
  std::string lines = text("N: ", job.matrix.columns, "\n");
  for (const auto& [name, value] : job.attributes) {
    const bool decides = std::find(file::deciding_attributes.begin(), file::deciding_attributes.end(), name) !=
                         file::deciding_attributes.end();
    if (decides && name != "threads") lines += text(name, ": ", joined(split_lines(file::text_of(value)), "; "), "\n");
  }
  std::string parameters;
  for (const auto& entry : job.index.entries())
    parameters += text(entry.name, ' ', matrix::text_of_shape(entry.shape), '\n');
  const auto sum_of = [](const auto& all) { return text(xxh3(all.data(), all.size() * sizeof(all[0]))); };
  return lines + text("parameters, as a checksum: ", sum_of(parameters), "\n") +
         text("their values, as a checksum: ", sum_of(job.value), "\n");
}

// What differs between two such lists.
std::vector<std::string> differences(const std::string& kept, const std::string& now) {
  std::vector<std::string> found;
  const auto before = split_lines(kept);
  const auto after = split_lines(now);
  for (std::size_t k = 0; k < std::max(before.size(), after.size()); ++k) {
    const auto a = k < before.size() ? before[k] : "nothing";
    const auto b = k < after.size() ? after[k] : "nothing";
    if (a != b) found.push_back(text(a, " in the file, ", b.substr(std::min(b.size(), b.find(": ") + 2)), " now"));
  }
  return found;
}

[[noreturn]] void throw_foreign(const std::filesystem::path& path, const std::string& why) {
  throw InputError(text("'", path.string(), "' ", why,
                        ". Give the options that it was begun with, another --output, or --overwrite in the place of "
                        "--resume"));
}

std::pair<Beginning, std::string> read_beginning(const system::PosixFile& file) {
  Beginning beginning;
  const auto magic = beginning.magic;
  const auto got = file.read_some(0, &beginning, sizeof beginning);
  if (got != sizeof beginning || beginning.magic != magic || beginning.bytes > file.size())
    throw_foreign(file.path(), "has no products of hessian_mpi");
  std::string lines(beginning.bytes, ' ');
  const auto there = file.read_some(sizeof beginning, lines.data(), lines.size());
  if (there != lines.size() || xxh3(lines.data(), lines.size()) != beginning.sum)
    throw_foreign(file.path(), "is damaged");
  return {beginning, lines};
}

}  // namespace

KeptProducts::KeptProducts(std::filesystem::path path, const file::StoredLayout& job, const Rows& own,
                           bool replaces_output, const ranks::Communicator& communicator)
    : path_(std::move(path)),
      n_(job.matrix.columns),
      own_(own),
      communicator_(communicator),
      sync_(seconds_between_syncs) {
  std::string heads;
  communicator.on_root([&] {
    open_or_begin(job, replaces_output);
    heads = read_heads();
  });
  heads = communicator.from_root(std::move(heads));
  begin_ = static_cast<std::uint64_t>(communicator.max(static_cast<std::int64_t>(begin_)));
  take_over(heads);
  communicator.together([&] { file_.emplace(path_, O_RDWR); });
}

bool KeptProducts::replaces_output(const std::filesystem::path& path) {
  return read_beginning(system::PosixFile(path, O_RDONLY)).first.replaces_output != 0;
}

void KeptProducts::open_or_begin(const file::StoredLayout& job, bool replaces_output) {
  const auto lines = lines_of(job);
  if (std::filesystem::exists(path_)) {
    const auto [beginning, kept] = read_beginning(system::PosixFile(path_, O_RDONLY));
    const auto found = differences(kept, lines);
    if (!found.empty()) throw_foreign(path_, "is of another job: " + joined(found, "; "));
    begin_ = place_after(beginning);
    return;
  }
  Beginning beginning;
  beginning.bytes = lines.size();
  beginning.sum = xxh3(lines.data(), lines.size());
  beginning.replaces_output = replaces_output ? 1 : 0;
  begin_ = place_after(beginning);
  const system::UnfinishedFile unfinished(path_);
  const system::PosixFile file(unfinished.path(), O_RDWR | O_CREAT | O_EXCL);
  file.write(0, &beginning, sizeof beginning);
  file.write(sizeof beginning, lines.data(), lines.size());
  file.resize(begin_);
  file.sync();
  unfinished.publish(path_, /*replace=*/false);
}

std::string KeptProducts::read_heads() const {
  const system::PosixFile file(path_, O_RDWR);
  auto whole = (std::max(file.size(), begin_) - begin_) / bytes_of_one();
  std::string heads(whole * bytes_of_head, ' ');
  for (std::uint64_t k = 0; k < whole; ++k)
    file.read(place_of(static_cast<std::int64_t>(k)), heads.data() + k * bytes_of_head, bytes_of_head);
  for (; whole > 0 && !is_sound(head_in(heads, whole - 1)); --whole) heads.resize((whole - 1) * bytes_of_head);
  file.resize(begin_ + whole * bytes_of_one());  // which cuts off what is torn
  return heads;
}

void KeptProducts::take_over(const std::string& heads) {
  heads_.resize(heads.size() / bytes_of_head);
  if (!heads.empty()) std::memcpy(heads_.data(), heads.data(), heads.size());
  earlier_ = count();
}

std::uint64_t KeptProducts::bytes_of_one() const {
  return bytes_of_head + static_cast<std::uint64_t>(n_) * sizeof(double);
}

std::uint64_t KeptProducts::place_of(std::int64_t k) const {
  return begin_ + static_cast<std::uint64_t>(k) * bytes_of_one();
}

// A random sign for each element; those that are 64 apart may share a bucket.
Head KeptProducts::head_of(const double* own) const {
  constexpr std::int64_t group = 64;
  std::vector<double> sums(Head::buckets + 1);
  for (auto begin = own_.begin; begin < own_.end;) {
    const auto end = std::min(own_.end, (begin / group + 1) * group);
    const auto hash = mixed(static_cast<std::uint64_t>(begin / group));
    const auto signs = mixed(hash);
    double* bucket = sums.data() + hash % (Head::buckets / group) * group + begin % group;
    double squares = 0;
    for (std::int64_t k = 0; k < end - begin; ++k) {
      const double x = own[begin - own_.begin + k];
      bucket[k] += ((signs >> ((begin + k) % group)) & 1) != 0 ? x : -x;
      squares += x * x;
    }
    sums.back() += squares;
    begin = end;
  }
  sums = communicator_.sum(std::move(sums));
  Head head{};
  head.sum_of_vector = sum_over_ranks(own);
  head.squares = sums.back();
  std::copy_n(sums.begin(), Head::buckets, head.sketch);
  return head;
}

// Of all numbers with their places, whoever has them.
std::uint64_t KeptProducts::sum_over_ranks(const double* own) const {
  constexpr std::uint64_t low_bits = (std::uint64_t{1} << 40) - 1;  // whose sum over all ranks fits
  std::uint64_t sum = 0;
  for (std::int64_t k = 0; k < own_.count(); ++k) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, own + k, sizeof bits);
    bits = (bits ^ (static_cast<std::uint64_t>(own_.begin + k) * 0x9e3779b97f4a7c15)) * 0xbf58476d1ce4e5b9;
    sum += (bits ^ (bits >> 32)) * 0x94d049bb133111eb >> 24;
  }
  return static_cast<std::uint64_t>(communicator_.sum(static_cast<std::int64_t>(sum & low_bits))) & low_bits;
}

bool KeptProducts::find(const Head& vector, Match match, double* product) {
  double nearest = same_vector * same_vector * vector.squares;
  std::optional<std::int64_t> found;
  for (std::size_t k = 0; k < heads_.size(); ++k) {
    double squares = 0;
    for (std::size_t b = 0; b < Head::buckets && squares <= nearest; ++b) {
      const double difference = heads_[k].sketch[b] - vector.sketch[b];
      squares += difference * difference;
    }
    if (!(squares <= nearest) || !is_sound(heads_[k])) continue;
    if (match == Match::bits && heads_[k].sum_of_vector != vector.sum_of_vector) continue;
    nearest = squares;
    found = static_cast<std::int64_t>(k);
  }
  if (!found) return false;
  if (*found + 1 == count()) finish_writing();
  if (*found == count()) return false;
  communicator_.together([&] {
    const auto bytes = static_cast<std::uint64_t>(own_.count()) * sizeof(double);
    const auto place = place_of(*found) + bytes_of_head + static_cast<std::uint64_t>(own_.begin) * sizeof(double);
    file_->read(place, product, bytes);
  });
  return sum_over_ranks(product) == heads_[static_cast<std::size_t>(*found)].sum_of_product;
}

void KeptProducts::finish_writing() {
  if (!writing_.valid()) return;
  try {
    communicator_.together([&] {
      writing_.get();
      if (syncing_.valid() && syncing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) syncing_.get();
    });
  } catch (const ranks::AgreedError& error) {
    failure_ = error.what();
    heads_.pop_back();
  }
}

bool KeptProducts::is_left_out(double seconds) {
  if (bytes_of_one() < large_product) return false;
  const bool is_writing = writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
  if (communicator_.max(std::int64_t{is_writing}) == 0) return false;
  const double in_all = communicator_.max(seconds_left_out_ + seconds);
  if (in_all > most_seconds_left_out) return false;
  seconds_left_out_ = in_all;
  return true;
}

void KeptProducts::add(Head head, const double* product, double seconds) {
  ++made_;
  if (failure_ || is_left_out(seconds)) return;
  finish_writing();
  if (failure_) return;
  head.sum_of_product = sum_over_ranks(product);
  head.sum = xxh3(&head, offsetof(Head, sum));
  const auto place = place_of(count());
  communicator_.together([&] { being_written_.assign(product, product + own_.count()); });
  if (!syncing_.valid() && sync_.is_due()) syncing_ = syncer_.begin([this] { file_->sync_data(); });
  writing_ = writer_.begin([this, head, place] {
    const auto of_rank = static_cast<std::uint64_t>(own_.begin) * sizeof(double);
    file_->write(place + bytes_of_head + of_rank, being_written_.data(), being_written_.size() * sizeof(double));
    if (communicator_.is_root()) file_->write(place, &head, bytes_of_head);
  });
  heads_.push_back(head);
}

void KeptProducts::bring_to_disk() {
  finish_writing();
  try {
    communicator_.together([&] {
      if (syncing_.valid()) syncing_.get();
      file_->sync_data();
    });
  } catch (const ranks::AgreedError& error) {
    failure_ = error.what();
  }
}

void KeptProducts::remove() {
  communicator_.on_root([&] {
    std::filesystem::remove(path_);
    try {
      file_->resize(0);  // so that nobody waits for the disk to take it
    } catch (const RunError&) {
      return;
    }
  });
}

void multiply(Network& network, KeptProducts& kept, Match match, const double* own, std::int64_t count,
              double* products) {
  const auto rows = network.own().count();
  const auto most = network.vectors_at_once();
  std::vector<KeptProducts::Head> missing;  // of the vectors before k
  const auto make = [&](std::int64_t k) {
    if (missing.empty()) return;
    const auto first = k - static_cast<std::int64_t>(missing.size());
    const Stopwatch watch;
    network.multiply(own + first * rows, k - first, products + first * rows);
    const double seconds = watch.seconds() / static_cast<double>(k - first);
    for (auto j = first; j < k; ++j)
      kept.add(missing[static_cast<std::size_t>(j - first)], products + j * rows, seconds);
    missing.clear();
  };
  for (std::int64_t k = 0; k < count; ++k) {
    const auto head = kept.head_of(own + k * rows);
    if (kept.find(head, match, products + k * rows)) {
      make(k);
    } else {
      missing.push_back(head);
      if (static_cast<std::int64_t>(missing.size()) == most) make(k + 1);
    }
  }
  make(count);
}

}  // namespace hessian_mpi::products
