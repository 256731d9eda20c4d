#include "output.h"

#include <fcntl.h>
#include <rdeic/rdeic.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>

namespace rdeic_tool {
namespace {

namespace fs = std::filesystem;

constexpr int kExitFile = RDEIC_RESULT_IO / 10;
constexpr int kMostLinks = 40;
constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP};
// Names of what is open already, a regular file perhaps: to replace it would leave whoever has it open with the old
// one.
constexpr const char* kOpenFiles[] = {"/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/proc/"};

std::optional<struct stat> existing(const std::string& path) {
  struct stat found;
  if (::stat(path.c_str(), &found) == 0) return found;
  if (errno == ENOENT) return std::nullopt;
  throw FileError(path, errno);
}

/// Returns the path with symbolic links in the place of its last part followed.
fs::path followed(const std::string& path) {
  fs::path at = path;
  for (int n = 0; n < kMostLinks; ++n) {
    std::error_code error;
    if (fs::symlink_status(at, error).type() != fs::file_type::symlink) return at;
    const fs::path next = fs::read_symlink(at, error);
    if (error) throw FileError(path, error.value());
    at = next.is_absolute() ? next : at.parent_path() / next;
  }
  throw FileError(path, ELOOP);
}

char unfinished[PATH_MAX];  // what a signal has removed

void end_by(int number) {
  unlink(unfinished);
  signal(number, SIG_DFL);
  raise(number);
}

/// A temporary file, gone at the end whatever happens.
class Temporary {
 public:
  Temporary(const fs::path& target, mode_t mode) {
    std::random_device random;
    char name[64];
    std::snprintf(name, sizeof name, ".rdeic-%08x%08x.tmp", random(), random());
    path_ = (target.has_parent_path() ? target.parent_path() : fs::path(".")) / name;
    if (path_.native().size() >= sizeof unfinished) {
      errno = ENAMETOOLONG;
      return;
    }
    std::strcpy(unfinished, path_.c_str());
    for (std::size_t i = 0; i < std::size(kEnding); ++i) {
      struct sigaction ours {};
      ours.sa_handler = end_by;
      sigaction(kEnding[i], nullptr, &before_[i]);
      if (before_[i].sa_handler == SIG_DFL) sigaction(kEnding[i], &ours, nullptr);
    }
    const int descriptor = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (descriptor >= 0) file_.reset(fdopen(descriptor, "wb"));
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (unfinished[0] == '\0') return;
    unlink(path_.c_str());
    for (std::size_t i = 0; i < std::size(kEnding); ++i) sigaction(kEnding[i], &before_[i], nullptr);
    unfinished[0] = '\0';
  }

  const char* path() const { return path_.c_str(); }
  std::FILE* file() const { return file_.get(); }  // null where there is none; errno then says why

 private:
  fs::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
  struct sigaction before_[std::size(kEnding)]{};
};

/// Has `write` write to a stream; throws unless all has arrived.
void write_all(std::FILE* file, const std::string& name, const std::function<std::string(std::FILE*)>& write) {
  errno = 0;
  const std::string problem = write(file);
  if (std::ferror(file) || (problem.empty() && std::fflush(file) != 0)) throw FileError(name, errno);
  if (!problem.empty()) throw FileError(name + ": " + problem);
}

/// Gives a temporary file a name that no file has.
void take_free_name(const Temporary& temporary, const fs::path& target, const std::string& name) {
  if (link(temporary.path(), target.c_str()) == 0) return;
  if (errno == EEXIST) throw FileError(name, EEXIST);
  // A file system without hard links: creating the name exclusively reserves it, and then it is ours to replace.
  const int reserved = open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (reserved < 0) throw FileError(name, errno);
  close(reserved);
  if (std::rename(temporary.path(), target.c_str()) != 0) throw FileError(name, errno);
}

void save_file(const Output& output, const std::function<std::string(std::FILE*)>& write) {
  const auto old = existing(output.path);
  const fs::path target = followed(output.path);
  if (old && S_ISDIR(old->st_mode)) throw FileError(output.path, EISDIR);
  if (old && !output.replace) throw FileError(output.path, EEXIST);
  if (old && access(target.c_str(), W_OK) != 0) throw FileError(output.path, errno);
  const Temporary temporary(target, old ? 0600 : 0666);  // what is to be private is so from the start
  if (!temporary.file()) throw FileError(output.path, errno);
  write_all(temporary.file(), output.path, write);
  const int descriptor = fileno(temporary.file());
  if (fsync(descriptor) != 0) throw FileError(output.path, errno);
  if (!output.replace) return take_free_name(temporary, target, output.path);
  if (old) {
    if (fchown(descriptor, old->st_uid, old->st_gid) != 0) errno = 0;  // then it is ours
    if (fchmod(descriptor, old->st_mode & 07777) != 0) throw FileError(output.path, errno);
  }
  if (std::rename(temporary.path(), target.c_str()) != 0) throw FileError(output.path, errno);
}

}  // namespace

FileError::FileError(const std::string& name, int problem)
    : std::runtime_error(name + ": " + (problem ? std::strerror(problem) : "cannot be written")) {}

bool is_stream(const std::string& path) {
  if (path == "-") return true;
  const std::string absolute = fs::absolute(path).lexically_normal();
  for (const char* const open : kOpenFiles)
    if (absolute.starts_with(open)) return true;
  const auto found = existing(path);
  return found && !S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode);
}

std::string place_of(const std::string& path) {
  std::error_code error;
  const fs::path place = fs::weakly_canonical(fs::absolute(followed(path)), error);
  return error ? path : place.string();
}

void check(const Output& output) {
  if (output.path == "-" || (output.is_named && is_stream(output.path))) return;
  struct stat found;
  if (!output.replace && lstat(output.path.c_str(), &found) == 0) {
    if (output.is_named) throw FileError(output.path + ": exists, and --no-overwrite was given");
    throw FileError(output.path + ": exists, and -o does not name it. Give -o FILE, or --overwrite to replace it");
  }
  const auto old = existing(output.path);
  if (old && S_ISDIR(old->st_mode)) throw FileError(output.path, EISDIR);
  const fs::path folder = followed(output.path).parent_path();
  if (!folder.empty() && !existing(folder)) throw FileError(output.path, ENOENT);
}

void save(const Output& output, const std::function<std::string(std::FILE*)>& write) {
  if (output.path == "-") return write_all(stdout, "standard output", write);
  if (!is_stream(output.path)) return save_file(output, write);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(output.path.c_str(), "wb"), std::fclose);
  if (!file) throw FileError(output.path, errno);
  write_all(file.get(), output.path, write);
}

void reserve_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) < 0 && errno == EBADF)
      open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // the lowest that is free
  }
}

int flush_standard_streams(int status) {
  errno = 0;
  if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && status == 0) {
    std::fprintf(stderr, "%s\n", FileError("standard output", errno).what());
    status = kExitFile;
  }
  return std::ferror(stderr) && status == 0 ? kExitFile : status;
}

}  // namespace rdeic_tool
