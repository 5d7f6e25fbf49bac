// A library to preload: one system call of one rank fails, as on a full or failing disk, or for want of memory.
//   FAULT_RANK=1 FAULT_CALL=pwrite FAULT_AT=3 FAULT_FILE=result FAULT_ERROR=28   the third pwrite to a file whose name
//   holds `result` fails on rank 1 with errno 28, and so do all later ones; FAULT_MARK names a file to be made when it
//   happens. FAULT_ERROR=-9: the rank is killed there; -19: it stops until it is told to go on, with the call.
//   FAULT_WITHOUT_FALLOCATE=1: no space can be taken in advance for that file, as on NFS before 4.2.
//   FAULT_ERROR=0: the calls succeed after a pause, so that there is time to interrupt a job on a machine of any speed.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr useconds_t pause_in_microseconds = 100;

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// As Open MPI tells it, or Slurm and MPICH.
bool is_on_this_rank() {
  const char* rank = variable("OMPI_COMM_WORLD_RANK");
  return std::strcmp(*rank != '\0' ? rank : variable("PMI_RANK"), variable("FAULT_RANK")) == 0;
}

bool names(const char* file) {
  return std::strstr(file, variable("FAULT_FILE")) != nullptr;
}

bool names(int descriptor) {
  std::array<char, 64> link{};
  std::array<char, 4096> file{};
  std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", descriptor);
  return readlink(link.data(), file.data(), file.size() - 1) > 0 && names(file.data());
}

void leave_mark() {
  const int mark = creat(variable("FAULT_MARK"), 0600);
  if (mark >= 0) close(mark);
}

// True, with errno set, where the call is to fail.
bool fails(const char* call) {
  static std::atomic<long> calls{0};
  static const bool here = is_on_this_rank();
  static const long first = std::atol(variable("FAULT_AT"));
  if (!here || std::strcmp(variable("FAULT_CALL"), call) != 0) return false;
  const long number = ++calls;
  if (number < first) return false;
  const int error = std::atoi(variable("FAULT_ERROR"));
  if (error == 0) {
    usleep(pause_in_microseconds);
    return false;
  }
  if (error < 0 && number > first) return false;
  leave_mark();
  if (error < 0) raise(-error);
  errno = error;
  return error > 0;
}

template <class Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

#define FAULT_EXPORT extern "C" __attribute__((visibility("default")))

FAULT_EXPORT int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  static auto* const real = original<int(void**, std::size_t, std::size_t)>("posix_memalign");
  if (fails("posix_memalign")) return ENOMEM;
  return real(memory, alignment, size);
}

FAULT_EXPORT ssize_t pwrite(int file, const void* bytes, std::size_t count, off_t offset) {
  static auto* const real = original<ssize_t(int, const void*, std::size_t, off_t)>("pwrite");
  if (names(file) && fails("pwrite")) return -1;
  return real(file, bytes, count, offset);
}

FAULT_EXPORT ssize_t pwritev(int file, const iovec* pieces, int count, off_t offset) {
  static auto* const real = original<ssize_t(int, const iovec*, int, off_t)>("pwritev");
  if (names(file) && fails("pwrite")) return -1;
  return real(file, pieces, count, offset);
}

FAULT_EXPORT ssize_t pread(int file, void* bytes, std::size_t count, off_t offset) {
  static auto* const real = original<ssize_t(int, void*, std::size_t, off_t)>("pread");
  if (names(file) && fails("pread")) return -1;
  return real(file, bytes, count, offset);
}

FAULT_EXPORT int fdatasync(int file) {
  static auto* const real = original<int(int)>("fdatasync");
  if (names(file) && fails("fdatasync")) return -1;
  return real(file);
}

FAULT_EXPORT int fsync(int file) {
  static auto* const real = original<int(int)>("fsync");
  if (names(file) && fails("fsync")) return -1;
  return real(file);
}

FAULT_EXPORT int sync_file_range(int file, off_t offset, off_t count, unsigned flags) {
  static auto* const real = original<int(int, off_t, off_t, unsigned)>("sync_file_range");
  if (names(file) && fails("sync_file_range")) return -1;
  return real(file, offset, count, flags);
}

FAULT_EXPORT int fallocate(int file, int mode, off_t offset, off_t count) {
  static auto* const real = original<int(int, int, off_t, off_t)>("fallocate");
  if (names(file) && *variable("FAULT_WITHOUT_FALLOCATE") != 0) {
    errno = EOPNOTSUPP;
    return -1;
  }
  if (names(file) && fails("fallocate")) return -1;
  return real(file, mode, offset, count);
}

FAULT_EXPORT int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  static auto* const real = original<int(int, const char*, int, const char*, unsigned)>("renameat2");
  if (names(to) && fails("rename")) return -1;
  return real(from_folder, from, to_folder, to, flags);
}

FAULT_EXPORT int unlink(const char* file) {
  static auto* const real = original<int(const char*)>("unlink");
  if (names(file) && fails("unlink")) return -1;
  return real(file);
}

// Of locks alone.
FAULT_EXPORT int fcntl64(int file, int command, ...) {
  static auto* const real = original<int(int, int, ...)>("fcntl64");
  std::va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  if ((command == F_OFD_SETLK || command == F_SETLK) && names(file) && fails("lock")) return -1;
  return real(file, command, argument);
}

FAULT_EXPORT int fcntl(int file, int command, ...) {
  std::va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  return fcntl64(file, command, argument);
}

FAULT_EXPORT std::FILE* fopen64(const char* file, const char* mode) {
  static auto* const real = original<std::FILE*(const char*, const char*)>("fopen64");
  if (names(file) && fails("open")) return nullptr;
  return real(file, mode);
}

FAULT_EXPORT std::FILE* fopen(const char* file, const char* mode) {
  return fopen64(file, mode);
}
