#pragma once

// Where the command writes to, by the rules of rdeic-rt:
//
//   -                          standard output
//   a pipe, device, /dev/fd/N  written to as it is
//   a regular file, or none    a temporary file beside it takes its name once it is complete; a symbolic link is
//   followed
//
// An error names the output as the command line does.

#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>

namespace rdeic_tool {

/// A file that cannot be read or written; what() names it and says why.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;

  /// `problem`: a number of errno.
  FileError(const std::string& name, int problem);
};

/// Where an image goes, and what may be replaced there.
struct Output {
  std::string path;
  bool is_named = false;  // whether the command line names it
  bool replace = false;   // a file that exists
};

/// Returns whether a path is written to as it is. Throws FileError if that cannot be told.
bool is_stream(const std::string& path);

/// Returns a path with symbolic links followed, of whose last part there need not be a file, to compare it with others.
std::string place_of(const std::string& path);

/// Throws FileError where an output cannot be written: before the work is done in vain.
void check(const Output& output);

/// Has `write` write to an output; it returns what went wrong, or nothing.
///
/// A regular file is there complete, or as it was before, also when SIGINT, SIGTERM or SIGHUP ends the process. One
/// that is replaced passes on its permissions, and its owner where that is allowed. Throws FileError.
void save(const Output& output, const std::function<std::string(std::FILE*)>& write);

/// Opens the standard streams that are closed, so that no file takes their place; what is written to them fails.
void reserve_standard_streams();

/// Returns the exit code once what was written to standard output and standard error has arrived or failed to.
int flush_standard_streams(int status);

}  // namespace rdeic_tool
