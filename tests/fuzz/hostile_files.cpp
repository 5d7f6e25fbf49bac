// Loads files with something wrong in them up to the second derivatives, as the program does, each in a process of its
// own: every one has to end in success or in one message for the user, within its time and memory.
//
//   hostile_files MODELS CASES [SEED [CASE]]     CASE: only this one, whose file is kept

#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/types.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "content_of.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/data.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/network/model.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/options.hpp"
#include "mutation.hpp"

namespace hessian_mpi::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr unsigned seconds_allowed = 60;
constexpr rlim_t bytes_allowed = rlim_t{4} << 30;  // beyond those of the process that starts

// --- The files ----------------------------------------------------------------------------------------------------

struct Subject {
  std::string name;
  std::vector<std::string> arguments;  // of a command line that is right
  std::string option;                  // the one whose file is changed
};

void write(const fs::path& file, const Bytes& bytes) {
  std::ofstream(file, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::vector<std::string> arguments_of(const fs::path& folder, const std::string& model, const std::string& data) {
  std::vector<std::string> arguments{"--model", folder / model, "--data", folder / data};
  std::istringstream words(content_of(folder / "options"));
  for (std::string word; words >> word;) {
    constexpr std::string_view placeholder = "@CASE@";
    if (const auto at = word.find(placeholder); at != std::string::npos) {
      word.replace(at, placeholder.size(), folder.string());
    }
    arguments.push_back(word);
  }
  return arguments;
}

std::vector<Subject> subjects(const fs::path& models) {
  std::vector<Subject> found;
  for (const char* name : {"batch_norm_eval", "embedding", "transformer", "two_inputs", "mlp_mse", "tied"}) {
    const fs::path folder = models / name;
    for (const char* model : {"model.pt", "model.pt2"}) {
      found.push_back({text(name, "/", model), arguments_of(folder, model, "data.h5"), "--model"});
    }
    for (const char* data : {"data.h5", "data.pt"}) {
      found.push_back({text(name, "/", data), arguments_of(folder, "model.pt2", data), "--data"});
    }
  }
  const fs::path scripted = models / "scripted_loss";
  found.push_back({"scripted_loss/loss.pt", arguments_of(scripted, "model.pt2", "data.h5"), "--loss"});
  for (const char* name : {"state_dict.pt", "under_model.pt", "values.safetensors"}) {
    const fs::path values = models / "values";
    found.push_back(
        {text("values/", name),
         {"--model", values / "nested.pt2", "--data", values / "data.pt", "--loss", "mse", "--values", values / name},
         "--values"});
  }
  auto compressed = arguments_of(models / "mlp_mse", "model.pt2", "data.h5");
  compressed[3] = models / "hostile" / "compressed.h5";
  found.push_back({"hostile/compressed.h5", compressed, "--data"});
  found.push_back({"configuration", {"--config", ""}, "--config"});
  return found;
}

constexpr const char* configuration =
    "# a job\nmodel = net.pt2\ndata = batch.h5\nloss = cross_entropy\nreduction = mean\nbatch-size = 8\n"
    "dtype = float64\nparameters = 0.*\nparameters = fc.weight\nseed = 3\nthreads = 2\nmemory = 512M\n"
    "output = hessian.h5\nstorage = float32\ncheck = 4\nverify = all\nprogress = none\noverwrite = true\n";

// --- A run --------------------------------------------------------------------------------------------------------

// What the program does before it writes anything.
void examine(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv{"hessian_mpi"};
  for (const auto& argument : arguments) argv.push_back(argument.c_str());
  const run::Options options = run::parse_options(static_cast<int>(argv.size()), argv.data());
  if (!options.model || arguments.front() == "--config") return;
  const auto problem = run::load_problem(options, options.dtype);
  network::probe_second_derivatives(problem);
  network::evaluate(problem);
}

// Nothing that a terminal would obey, nothing that only a developer of a library can read, and valid UTF-8.
std::optional<std::string> fault_of(const std::string& message) {
  constexpr std::size_t longest = 5000;
  if (message.empty()) return "an empty message";
  if (message.size() > longest) return text("a message of ", message.size(), " characters");
  for (const char* part : {"Exception raised", "frame #", "c10::", "at::", "miniz", ".cpp", "INTERNAL ASSERT"}) {
    if (message.find(part) != std::string::npos) return text("a message with ", part);
  }
  for (const char c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return "a message with control characters";
  }
  return std::nullopt;
}

// "success", "input error", "run error", or what must not happen; then what was said.
struct Outcome {
  std::string kind;
  std::string message;
  bool is_right() const { return kind == "success" || kind == "input error" || kind == "run error"; }
};

Outcome outcome_of(const std::vector<std::string>& arguments) {
  try {
    examine(arguments);
    return {"success", {}};
  } catch (const Error& error) {
    const std::string message = error.what();
    if (const auto fault = fault_of(message)) return {*fault, message};
    return {error.code() == ExitCode::bad_input ? "input error" : "run error", message};
  } catch (const std::exception& error) {
    return {"an exception of a library", error.what()};
  } catch (...) {
    return {"an unknown exception", {}};
  }
}

void limit_resources() {
  alarm(seconds_allowed);
#ifndef __SANITIZE_ADDRESS__
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t most = pages * static_cast<rlim_t>(getpagesize()) + bytes_allowed;
  const rlimit limit{most, most};
  setrlimit(RLIMIT_AS, &limit);
#endif
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
}

std::string text_from(int descriptor) {
  std::string all;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = read(descriptor, buffer.data(), buffer.size())) > 0;) {
    all.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return all;
}

Outcome run_apart(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) throw RunError("no pipe");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    limit_resources();
    const Outcome outcome = outcome_of(arguments);
    const std::string told = outcome.kind + '\n' + outcome.message;
    _exit(::write(ends[1], told.data(), told.size()) < 0 ? 1 : 0);
  }
  close(ends[1]);
  const std::string told = text_from(ends[0]);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    if (WTERMSIG(status) == SIGALRM) return {text("more than ", seconds_allowed, " seconds"), {}};
    return {text("signal ", strsignal(WTERMSIG(status))), {}};
  }
  const auto end = told.find('\n');
  if (end == std::string::npos) return {"an exit by a library", {}};
  return {told.substr(0, end), told.substr(end + 1)};
}

// --- All runs -----------------------------------------------------------------------------------------------------

struct Plan {
  fs::path models;
  std::uint64_t cases = 0;
  std::uint64_t seed = 1;
  std::optional<std::uint64_t> only;
};

Bytes mutated(const Bytes& good, const std::string& option, Random& random) {
  if (option == "--config") return mutated_lines(good, random);
  return random() % 4 == 0 ? mutated_bytes(good, random) : mutated_archive(good, random);
}

// Case k of the plan, in file.
std::pair<Subject, Outcome> run_case(const Plan& plan, std::uint64_t k, const std::vector<Subject>& all,
                                     const fs::path& file) {
  std::seed_seq seeds{plan.seed, k};
  Random random(seeds);
  Subject subject = all[k % all.size()];
  const auto option = std::find(subject.arguments.begin(), subject.arguments.end(), subject.option);
  std::string& name = *std::next(option);
  write(file, mutated(subject.option == "--config" ? configuration : content_of(name), subject.option, random));
  name = file;
  auto outcome = run_apart(subject.arguments);
  return {std::move(subject), std::move(outcome)};
}

// A good file loads; and the libraries are warm when processes are split off.
void run_good_ones(const std::vector<Subject>& all) {
  for (const auto& subject : all) {
    if (subject.option == "--config") continue;  // names files that are not there
    const Outcome outcome = outcome_of(subject.arguments);
    if (outcome.kind != "success") throw RunError(text(subject.name, ": ", outcome.kind, ": ", outcome.message));
  }
}

int run(const Plan& plan) {
  const auto all = subjects(plan.models);
  run_good_ones(all);
  const fs::path folder = fs::temp_directory_path() / text("hostile_files_", getpid());
  fs::create_directories(folder);
  std::map<std::string, int> counts;
  int wrong = 0;
  const auto begin = plan.only.value_or(0);
  const auto end = plan.only ? *plan.only + 1 : plan.cases;
  for (auto k = begin; k < end; ++k) {
    const fs::path file = folder / text("case_", plan.seed, "_", k);
    const auto [subject, outcome] = run_case(plan, k, all, file);
    ++counts[outcome.kind];
    if (!outcome.is_right()) ++wrong;
    if (!outcome.is_right() || plan.only) {
      std::cout << "seed " << plan.seed << " case " << k << " (" << subject.name << "): " << outcome.kind
                << (outcome.message.empty() ? "" : ": ") << outcome.message << "\n  " << file.string() << std::endl;
    } else {
      fs::remove(file);
    }
  }
  for (const auto& [kind, count] : counts) std::cout << count << ' ' << kind << '\n';
  std::error_code kept;
  fs::remove(folder, kept);  // stays where a file was kept
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace hessian_mpi::fuzz

int main(int argc, char** argv) try {
  using namespace hessian_mpi;
  if (argc < 3) throw InputError("hostile_files MODELS CASES [SEED [CASE]]");
  fuzz::Plan plan{argv[1], std::stoull(argv[2]), argc > 3 ? std::stoull(argv[3]) : 1, {}};
  if (argc > 4) plan.only = std::stoull(argv[4]);
  const network::DifferentiableKernels kernels(torch::kCPU, 1);
  return fuzz::run(plan);
} catch (const std::exception& error) {
  std::cerr << "hostile_files: " << error.what() << '\n';
  return 2;
}
