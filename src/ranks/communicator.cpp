#include "hessian_mpi/ranks/communicator.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <numeric>
#include <regex>
#include <span>
#include <string_view>

#include "hessian_mpi/base/exception_words.hpp"

namespace hessian_mpi::ranks {
namespace {

void check(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> description{};
  int length = 0;
  MPI_Error_string(status, description.data(), &length);
  throw RunError(text(call, " failed: ", std::string(description.data(), static_cast<std::size_t>(length))));
}

// Ranks that wait yield their core: MPICH's own waiting does not, and Open MPI's where it is told so (below). They look
// for messages some times before: a look gets MPICH no more than a piece of a long one, and a core that was yielded to
// another program comes back milliseconds later.
void finish(std::span<MPI_Request> requests, const char* call) {
  constexpr int looks_between_yields = 100;
  int done = 0;
  for (int looks = 1; done == 0; ++looks) {
    check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), call);
    if (done == 0 && looks % looks_between_yields == 0) sched_yield();
  }
}
void finish(MPI_Request& request, const char* call) {
  finish(std::span(&request, 1), call);
}

// NOLINTBEGIN(clang-analyzer-optin.mpi.MPI-Checker): it knows no MPI_Test
template <class Number>
Number reduced(Number value, MPI_Datatype type, MPI_Op operation, MPI_Comm communicator) {
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Iallreduce(MPI_IN_PLACE, &value, 1, type, operation, communicator, &request), "MPI_Iallreduce");
  finish(request, "MPI_Iallreduce");
  return value;
}
// NOLINTEND(clang-analyzer-optin.mpi.MPI-Checker)

std::string broadcast(std::string value, int source, MPI_Comm communicator) {
  auto length = static_cast<std::int64_t>(value.size());
  check(MPI_Bcast(&length, 1, MPI_INT64_T, source, communicator), "MPI_Bcast");
  value.resize(static_cast<std::size_t>(length));
  check(MPI_Bcast(value.data(), static_cast<int>(length), MPI_CHAR, source, communicator), "MPI_Bcast");
  return value;
}

std::vector<std::uint64_t> join_all(const std::vector<std::uint64_t>& values, MPI_Comm communicator) {
  int size = 0;
  check(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
  const int count = static_cast<int>(values.size());
  std::vector<int> counts(static_cast<std::size_t>(size));
  check(MPI_Allgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, communicator), "MPI_Allgather");
  std::vector<int> offsets(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  std::vector<std::uint64_t> joined(static_cast<std::size_t>(offsets.back() + counts.back()));
  check(MPI_Allgatherv(values.data(), count, MPI_UINT64_T, joined.data(), counts.data(), offsets.data(), MPI_UINT64_T,
                       communicator),
        "MPI_Allgatherv");
  return joined;
}

// Ranks that wait spin, by default. Here each has a thread that computes meanwhile, on the same core where the launcher
// binds a rank to one; and where ranks outnumber cores, as srun lets them, a second of collectives would take minutes.
void yield_when_idle() {
  constexpr int keep_what_the_user_set = 0;
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", keep_what_the_user_set);
}

// Processes without mpirun that are told to start no daemon take one directory for their sessions: Open MPI 4 removes
// it when one of them ends, and another that begins then fails. Each gets its own, which Open MPI makes and removes.
void take_own_session_directory() {
  constexpr int keep_what_the_user_set = 0;
  const char* const isolated = std::getenv("OMPI_MCA_ess_singleton_isolated");
  const bool has_launcher = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  std::error_code none;
  const auto folder = std::filesystem::temp_directory_path(none);
  if (isolated == nullptr || std::string_view(isolated) != "1" || has_launcher || none) return;
  setenv("OMPI_MCA_orte_top_session_dir", (folder / text("ompi.", getpid())).c_str(), keep_what_the_user_set);
}

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
  yield_when_idle();
  take_own_session_directory();
  int provided = 0;
  check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

std::string mpi_library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> version{};
  int length = 0;
  check(MPI_Get_library_version(version.data(), &length), "MPI_Get_library_version");
  // "Open MPI v4.1.4, package: ...", "MPICH Version:    \t4.0.2\n..." and the like: what stands before the first comma
  // or line end is enough.
  const std::string name(version.data());
  return std::regex_replace(name.substr(0, name.find_first_of(",\n")),
                            std::regex(R"((\s+version)?\s*:?\s+v?(?=[0-9]))", std::regex::icase), " ");
}

bool returns_from_failed_writes() {
  return mpi_library_version().rfind("Open MPI", 0) == 0;
}

Communicator Communicator::world() {
  return Communicator(MPI_COMM_WORLD);
}

Communicator::Communicator(MPI_Comm communicator) : communicator_(communicator) {
  check(MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
  check(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node_), "MPI_Comm_split_type");
  check(MPI_Comm_rank(node_, &rank_on_node_), "MPI_Comm_rank");
  check(MPI_Comm_size(node_, &ranks_on_node_), "MPI_Comm_size");
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  check(MPI_Get_processor_name(name.data(), &length), "MPI_Get_processor_name");
  host_.assign(name.data(), static_cast<std::size_t>(length));
}

Communicator::Communicator(Communicator&& other) noexcept
    : communicator_(other.communicator_),
      node_(std::exchange(other.node_, MPI_COMM_NULL)),
      rank_(other.rank_),
      size_(other.size_),
      rank_on_node_(other.rank_on_node_),
      ranks_on_node_(other.ranks_on_node_),
      host_(std::move(other.host_)),
      finalisable_(other.finalisable_) {}

Communicator::~Communicator() {
  if (node_ != MPI_COMM_NULL) MPI_Comm_free(&node_);
}

void Communicator::wait_for_all() const {
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Ibarrier(communicator_, &request), "MPI_Ibarrier");
  finish(request, "MPI_Ibarrier");
}

std::int64_t Communicator::sum(std::int64_t value) const {
  return reduced(value, MPI_INT64_T, MPI_SUM, communicator_);
}
std::int64_t Communicator::min(std::int64_t value) const {
  return reduced(value, MPI_INT64_T, MPI_MIN, communicator_);
}
std::int64_t Communicator::max(std::int64_t value) const {
  return reduced(value, MPI_INT64_T, MPI_MAX, communicator_);
}
double Communicator::max(double value) const {
  return reduced(value, MPI_DOUBLE, MPI_MAX, communicator_);
}
std::vector<std::int64_t> Communicator::max(std::vector<std::int64_t> values) const {
  check(
      MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T, MPI_MAX, communicator_),
      "MPI_Allreduce");
  return values;
}

std::vector<double> Communicator::sum(std::vector<double> values) const {
  constexpr std::size_t most = 1 << 27;  // of one call: counts are of type int
  // Added up in one place: where each rank did it for itself, the last bits could differ.
  for (std::size_t at = 0; at < values.size(); at += most) {
    const int count = static_cast<int>(std::min(most, values.size() - at));
    check(MPI_Reduce(is_root() ? MPI_IN_PLACE : values.data() + at, values.data() + at, count, MPI_DOUBLE, MPI_SUM, 0,
                     communicator_),
          "MPI_Reduce");
    check(MPI_Bcast(values.data() + at, count, MPI_DOUBLE, 0, communicator_), "MPI_Bcast");
  }
  return values;
}

std::vector<std::uint64_t> Communicator::join(const std::vector<std::uint64_t>& values) const {
  return join_all(values, communicator_);
}
std::vector<std::uint64_t> Communicator::join_on_node(const std::vector<std::uint64_t>& values) const {
  return join_all(values, node_);
}

void Communicator::complete(char* bytes, const std::vector<std::int64_t>& begins) const {
  constexpr std::int64_t most = 256 << 20;  // of one message: counts are of type int
  for (int source = 0; source < size_; ++source) {
    const auto end = begins[static_cast<std::size_t>(source) + 1];
    for (auto at = begins[static_cast<std::size_t>(source)]; at < end; at += most) {
      check(MPI_Bcast(bytes + at, static_cast<int>(std::min(most, end - at)), MPI_CHAR, source, communicator_),
            "MPI_Bcast");
    }
  }
}

// Blocking calls go from partner to partner, and where ranks share cores each has to wait for its turn: at 64 ranks on
// two cores that took ten times as long.
// NOLINTBEGIN(clang-analyzer-optin.mpi.MPI-Checker): it knows no MPI_Test
std::vector<char> Communicator::exchange(const std::vector<char>& bytes, const std::vector<int>& counts) const {
  std::vector<int> incoming(counts.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Ialltoall(counts.data(), 1, MPI_INT, incoming.data(), 1, MPI_INT, communicator_, &request),
        "MPI_Ialltoall");
  finish(request, "MPI_Ialltoall");
  const auto begins = [](const std::vector<int>& sizes) {
    std::vector<int> offsets(sizes.size());
    std::exclusive_scan(sizes.begin(), sizes.end(), offsets.begin(), 0);
    return offsets;
  };
  const auto from = begins(counts);
  const auto to = begins(incoming);
  std::vector<char> received(static_cast<std::size_t>(to.back() + incoming.back()));
  check(MPI_Ialltoallv(bytes.data(), counts.data(), from.data(), MPI_CHAR, received.data(), incoming.data(), to.data(),
                       MPI_CHAR, communicator_, &request),
        "MPI_Ialltoallv");
  finish(request, "MPI_Ialltoallv");
  return received;
}

void Communicator::exchange(const std::vector<Outgoing>& outgoing, const std::vector<Incoming>& incoming) const {
  constexpr int tag = 0;
  std::vector<MPI_Request> requests;
  for (const auto& [rank, bytes, count] : incoming) {
    check(MPI_Irecv(bytes, static_cast<int>(count), MPI_CHAR, rank, tag, communicator_, &requests.emplace_back()),
          "MPI_Irecv");
  }
  for (const auto& [rank, bytes, count] : outgoing) {
    check(MPI_Isend(bytes, static_cast<int>(count), MPI_CHAR, rank, tag, communicator_, &requests.emplace_back()),
          "MPI_Isend");
  }
  finish(requests, "MPI_Testall");
}
// NOLINTEND(clang-analyzer-optin.mpi.MPI-Checker)

std::string Communicator::from_root(std::string value) const {
  return broadcast(std::move(value), 0, communicator_);
}

Communicator::Failure Communicator::failure_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    return {known.code(), known.what()};
  } catch (const std::exception& other) {
    return {ExitCode::failed, words_of(other)};
  } catch (...) {
    return {ExitCode::failed, "an unknown exception was thrown"};
  }
}

void Communicator::throw_if_any_failed(const std::optional<Failure>& failure, int asked) const {
  const auto failed = sum(failure ? 1 : 0);
  if (failed == 0) return;
  const int first = static_cast<int>(min(failure ? rank_ : std::numeric_limits<int>::max()));
  const auto code =
      static_cast<ExitCode>(reduced(rank_ == first ? static_cast<std::int64_t>(failure->code) : std::int64_t{-1},
                                    MPI_INT64_T, MPI_MAX, communicator_));
  const auto source = text("rank ", first, " on ", broadcast(host_, first, communicator_));
  const auto message = broadcast(failure ? failure->message : std::string(), first, communicator_);
  throw AgreedError(code, failed == asked ? message : text(source, ": ", message));
}

void abort_all_ranks(ExitCode code) {
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::abort();
}

}  // namespace hessian_mpi::ranks
