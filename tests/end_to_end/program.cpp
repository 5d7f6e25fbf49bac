#include "program.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace end_to_end {
namespace {

using Clock = std::chrono::steady_clock;

// Arguments of a posix_spawn, released with it.
class Spawn {
 public:
  Spawn() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETPGROUP);  // a group of its own can be ended as a whole
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;

  void run_in(const std::filesystem::path& folder) { posix_spawn_file_actions_addchdir_np(&actions_, folder.c_str()); }
  void redirect(int descriptor, const std::filesystem::path& file, int flags) {
    posix_spawn_file_actions_addopen(&actions_, descriptor, file.c_str(), flags, 0600);
  }
  pid_t start(const std::vector<std::string>& command) const {
    std::vector<char*> arguments;
    for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t child = 0;
    const int error = posix_spawnp(&child, arguments[0], &actions_, &attributes_, arguments.data(), environ);
    if (error != 0) throw std::runtime_error("cannot start " + command[0] + ": " + std::strerror(error));
    return child;
  }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

std::optional<int> wait_until(pid_t child, Clock::time_point deadline) {
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (Clock::now() > deadline) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return status;
}

}  // namespace

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// mpirun's notices stand between two lines of dashes.
std::string without_notices_of_mpirun(const std::string& text) {
  constexpr std::string_view rule = "----------";
  std::string kept;
  std::string notice;
  bool inside = false;
  for (const auto& line : lines_of(text)) {
    const bool at_rule = line.starts_with(rule);
    (inside || at_rule ? notice : kept) += line + "\n";
    if (!at_rule) continue;
    if (inside && notice.find("mpirun") == std::string::npos && notice.find("mpiexec") == std::string::npos &&
        notice.find("Primary job") == std::string::npos && notice.find("MPI_ABORT") == std::string::npos) {
      kept += notice;
    }
    if (inside) notice.clear();
    inside = !inside;
  }
  return kept + notice;
}

RunningCommand::RunningCommand(const std::vector<std::string>& command, const std::filesystem::path& folder) {
  Spawn spawn;
  spawn.redirect(STDIN_FILENO, "/dev/null", O_RDONLY);
  spawn.redirect(STDOUT_FILENO, captured_ / "stdout", O_WRONLY | O_CREAT | O_APPEND);
  spawn.redirect(STDERR_FILENO, captured_ / "stderr", O_WRONLY | O_CREAT | O_APPEND);
  spawn.run_in(folder);
  process_ = spawn.start(command);
}

RunningCommand::~RunningCommand() {
  wait(std::chrono::seconds(0));
}

// The leaves of the tree of its processes: some launchers start their ranks through a process of their own.
std::vector<int> RunningCommand::children() const {
  std::map<int, std::vector<int>> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    std::ifstream in(entry.path() / "stat");
    std::string line;
    if (!std::isdigit(static_cast<unsigned char>(name[0])) || !std::getline(in, line)) continue;
    // pid (name) state parent ...: the name may hold anything.
    std::istringstream rest(line.substr(line.rfind(')') + 1));
    char state = 0;
    int parent = 0;
    rest >> state >> parent;
    if (state != 'Z') children[parent].push_back(std::stoi(name));
  }
  std::vector<int> leaves;
  const std::function<void(int)> descend = [&](int process) {
    for (const int child : children[process]) {
      if (children[child].empty()) leaves.push_back(child);
      descend(child);
    }
  };
  descend(process_);
  std::sort(leaves.begin(), leaves.end());
  return leaves;
}

bool RunningCommand::has_ended() {
  if (!status_) status_ = wait_until(process_, Clock::now());
  return status_.has_value();
}

std::string RunningCommand::errors_so_far() const {
  return content_of(captured_ / "stderr");
}

Finished RunningCommand::wait(std::chrono::seconds limit) {
  bool in_time = true;
  if (!status_) status_ = wait_until(process_, Clock::now() + limit);
  if (!status_) {
    in_time = false;
    // mpirun passes a SIGTERM on to its ranks; they would outlive a SIGKILL of it.
    kill(-process_, SIGTERM);
    status_ = wait_until(process_, Clock::now() + std::chrono::seconds(10));
  }
  if (!status_) {
    kill(-process_, SIGKILL);
    int status = 0;
    waitpid(process_, &status, 0);
    status_ = status;
  }
  const int exit_code = in_time && WIFEXITED(*status_) ? WEXITSTATUS(*status_) : -1;
  return {exit_code, content_of(captured_ / "stdout"), content_of(captured_ / "stderr")};
}

Finished run_command(const std::vector<std::string>& command, const std::filesystem::path& folder,
                     std::chrono::seconds limit) {
  return RunningCommand(command, folder).wait(limit);
}

Words launch(int ranks, const Words& arguments, const Words& exported, const std::string& program) {
  const auto command = Words{MPI_TEST_LAUNCH} + Words{"-n", std::to_string(ranks)};
  // By env, since each MPI has an option of its own for it.
  return command + (exported.empty() ? Words{} : Words{"env"} + exported) + Words{program} + arguments;
}

Finished run_program(int ranks, const Words& arguments, const std::filesystem::path& folder, const Words& exported,
                     const std::string& program) {
  auto finished = run_command(launch(ranks, arguments, exported, program), folder, std::chrono::seconds(240));
  finished.errors = without_notices_of_mpirun(finished.errors);
  return finished;
}

void Batch::add(const std::string& name, int ranks, const Words& arguments) {
  std::filesystem::create_directory(folder(name));
  if (!jobs_.emplace(name, Job{ranks, arguments, {}}).second) throw std::runtime_error("two jobs named " + name);
}

void Batch::run() {
  std::set<int> numbers_of_ranks;
  for (const auto& [name, job] : jobs_) numbers_of_ranks.insert(job.ranks);
  for (const int ranks : numbers_of_ranks) run_on(ranks);
}

void Batch::run_on(int ranks) {
  const Folder told;  // by each job, in files whose names begin with the job's: see jobs.cpp
  {
    std::ofstream list(told / "jobs");
    for (const auto& [name, job] : jobs_) {
      if (job.ranks != ranks) continue;
      list << folder(name).string() << '\n' << (told / name).string() << '\n';
      for (const auto& word : job.arguments) list << word << '\n';
      list << '\n';
    }
  }
  const auto all =
      run_command(launch(ranks, {"--jobs", told / "jobs"}, {}, program_), told.path(), std::chrono::seconds(300));
  for (auto& [name, job] : jobs_) {
    if (job.ranks != ranks) continue;
    if (!std::filesystem::exists(told / (name + ".code"))) {
      job.finished = {-1, "", "did not come to its end; of all jobs together:\n" + all.output + all.errors};
      continue;
    }
    job.finished = {std::stoi(content_of(told / (name + ".code"))), content_of(told / (name + ".out")),
                    content_of(told / (name + ".err"))};
  }
}

Folder::Folder() {
  std::string name = std::filesystem::temp_directory_path() / "hessian_mpi_test_XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a folder like " + name);
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path models() {
  return HESSIAN_MPI_TEST_MODELS;
}

std::string content_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace end_to_end
