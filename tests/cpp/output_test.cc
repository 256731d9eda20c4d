// What the command does when it is ended, or fails, while it writes. What can be tried from outside is in
// tests/conformance/output_rules.py.

#include "output.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "temporary_folder.h"

namespace rdeic_tool {
namespace {

namespace fs = std::filesystem;

std::string content_of(const fs::path& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::size_t entries_of(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

/// Writes half of a file, which must be there under a name of its own.
void write_half(std::FILE* file) {
  std::fputs("half", file);
  std::fflush(file);
}

class Save : public ::testing::Test {
 protected:
  const rdeic::testing::TemporaryFolder folder_;
  const fs::path path_ = folder_.path() / "a.png";
};

TEST_F(Save, LeavesTheOldFileAndNoOtherWhenASignalEndsTheProcess) {
  std::ofstream(path_) << "old";
  for (const int number : {SIGTERM, SIGHUP, SIGINT}) {
    const auto write = [number, this](std::FILE* file) -> std::string {
      write_half(file);
      if (entries_of(folder_.path()) == 2) raise(number);
      return {};
    };
    EXPECT_EXIT(save({path_, true, true}, write), ::testing::KilledBySignal(number), "");
    EXPECT_EQ(content_of(path_), "old");
    EXPECT_EQ(entries_of(folder_.path()), 1U);
  }
}

TEST_F(Save, LeavesSignalsAsTheyWere) {
  std::signal(SIGTERM, SIG_IGN);
  save({path_, true, true}, [](std::FILE* file) -> std::string {
    raise(SIGTERM);
    std::fputs("whole", file);
    return {};
  });
  EXPECT_EQ(std::signal(SIGTERM, SIG_DFL), SIG_IGN);
  EXPECT_EQ(content_of(path_), "whole");
  EXPECT_EQ(std::signal(SIGHUP, SIG_DFL), SIG_DFL);
}

TEST_F(Save, LeavesTheOldFileAndNoOtherWhenWritingFails) {
  std::ofstream(path_) << "old";
  const auto write = [](std::FILE* file) -> std::string {
    write_half(file);
    return "no more ink";
  };
  try {
    save({path_, true, true}, write);
    ADD_FAILURE() << "did not throw";
  } catch (const FileError& error) {
    EXPECT_EQ(error.what(), path_.string() + ": no more ink");
  }
  EXPECT_EQ(content_of(path_), "old");
  EXPECT_EQ(entries_of(folder_.path()), 1U);
}

TEST_F(Save, DoesNotReplaceAFileThatComesInTheMeantime) {
  const auto write = [this](std::FILE* file) -> std::string {
    std::fputs("ours", file);
    std::ofstream(path_) << "theirs";
    return {};
  };
  EXPECT_THROW(save({path_, false, false}, write), FileError);
  EXPECT_EQ(content_of(path_), "theirs");
  EXPECT_EQ(entries_of(folder_.path()), 1U);
}

}  // namespace
}  // namespace rdeic_tool
