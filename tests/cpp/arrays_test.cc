#include "arrays.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "expect_error.h"
#include "listed_file.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

using testing::expect_error;
using testing::listed_file;
using testing::TemporaryFolder;

using Members = std::vector<std::pair<std::string, std::string>>;

/// Returns an .npy file.
std::string npy(const std::string& dictionary, const std::string& elements, int version = 1) {
  std::string text = dictionary + "\n";
  std::string result = "\x93NUMPY";
  result += static_cast<char>(version);
  result += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) result += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return result + text + elements;
}

std::string header(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

class ArraysTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const Members& members, int level = Z_DEFAULT_COMPRESSION) {
    const std::filesystem::path path = folder_.path() / "arrays.npz";
    const zipFile zip = zipOpen64(path.c_str(), APPEND_STATUS_CREATE);
    for (const auto& [name, content] : members) {
      zipOpenNewFileInZip(zip, name.c_str(), nullptr, nullptr, 0, nullptr, 0, nullptr, level ? Z_DEFLATED : 0, level);
      zipWriteInFileInZip(zip, content.data(), static_cast<unsigned>(content.size()));
      zipCloseFileInZip(zip);
    }
    zipClose(zip, nullptr);
    return path;
  }

  /// Expects an error from an archive of stored members, once `edit` has changed its bytes.
  void expect_corrupt_after(const Members& members, const std::string& words,
                            const std::function<void(std::string&)>& edit) {
    const std::filesystem::path path = write(members, Z_NO_COMPRESSION);
    std::ifstream file(path, std::ios::binary);
    std::string data(std::istreambuf_iterator<char>(file), {});
    edit(data);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << data;
    expect_error(Result::kBundleCorrupt, words, [&] { Arrays::read(listed_file(path)); });
  }

  void expect_corrupt(const Members& members, const std::string& words) {
    expect_error(Result::kBundleCorrupt, words, [&] { Arrays::read(listed_file(write(members))); });
  }

  TemporaryFolder folder_;
};

TEST_F(ArraysTest, ReadsStoredAndDeflatedMembers) {
  const std::vector<std::int32_t> counts = {1, -2, 3, 4, 5, 6};
  std::vector<float> many(10'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<float>(i);
  for (const int level : {0, 9}) {
    const Arrays arrays = Arrays::read(
        listed_file(write({{"counts.npy", npy(header("<i4", "(2, 3)"), bytes_of(counts))},
                           {"many.npy", npy(header("<f4", "(10000,)"), bytes_of(many), 2)},
                           {"scalar.npy", npy(header("<i8", "()"), bytes_of(std::vector<std::int64_t>{7}))},
                           {"none.npy", npy(header("|u1", "(0, 4)"), "")}},
                          level)));
    EXPECT_TRUE(std::ranges::equal(arrays.get<std::int32_t>("counts", {2, 3}), counts));
    EXPECT_TRUE(std::ranges::equal(arrays.get<std::int32_t>("counts", {kAnyLength, 3}), counts));
    EXPECT_TRUE(std::ranges::equal(arrays.get<float>("many", {kAnyLength}), many));
    EXPECT_EQ(arrays.get<std::int64_t>("scalar", {})[0], 7);
    EXPECT_EQ(arrays.shape("none"), (std::vector<std::uint64_t>{0, 4}));
    EXPECT_EQ(arrays.all().size(), 4U);
  }
}

TEST_F(ArraysTest, ReadsTheGoldenEntropyModelsAndStepTables) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(RDEIC_SOURCE_DIR "/tests/golden/v1/bundle")) {
    if (entry.path().extension() != ".npz") continue;
    EXPECT_FALSE(Arrays::read(listed_file(entry.path())).all().empty());
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST_F(ArraysTest, NamesWhatIsMissingOrOfAnotherTypeOrShape) {
  const Arrays arrays = Arrays::read(
      listed_file(write({{"x.npy", npy(header("|i1", "(2, 2)"), "abcd")}, {"e.npy", npy(header("|i1", "(0,)"), "")}})),
      "model");
  expect_error(Result::kBundleCorrupt, "model: no array 'y', which should be uint8 [n, 3]", [&] {
    (void)arrays.get<std::uint8_t>("y", {kAnyLength, 3});
  });
  expect_error(Result::kBundleCorrupt, "array 'x' is int8 [2, 2], should be uint8 [2, 2]", [&] {
    (void)arrays.get<std::uint8_t>("x", {2, 2});
  });
  expect_error(Result::kBundleCorrupt, "should be int8 [4]", [&] { (void)arrays.get<std::int8_t>("x", {4}); });
  expect_error(Result::kBundleCorrupt, "should be int8 [2, 3]", [&] { (void)arrays.get<std::int8_t>("x", {2, 3}); });
  expect_error(Result::kBundleCorrupt, "should be int8 [n]", [&] { (void)arrays.get<std::int8_t>("e", {kAnyLength}); });
  expect_error(Result::kBundleCorrupt, "no array 'z'", [&] { (void)arrays.shape("z"); });
}

TEST_F(ArraysTest, RejectsHeadersThatNumpyDoesNotWrite) {
  for (const char* text :
       {"", "{", "{}", "[]", "{'descr': '<i4'}", "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        "{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<i4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<i4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,)}"})
    expect_corrupt({{"x.npy", npy(text, "abcd")}}, "not the header of an array");
}

TEST_F(ArraysTest, RejectsTypesAndOrdersThatNoBundleHas) {
  for (const char* descr : {"|O", ">i4", "<f8", "|S4", "<i2"})
    expect_corrupt({{"x.npy", npy(header(descr, "(1,)"), "abcd")}}, "elements of type");
  expect_corrupt({{"x.npy", npy(header("|i1", "(2, 2)", "True"), "abcd")}}, "in Fortran order");
}

TEST_F(ArraysTest, RejectsSizesThatAreNotThere) {
  expect_corrupt({{"x.npy", npy(header("<i4", "(2,)"), "abcd")}}, "should have");
  expect_corrupt({{"x.npy", npy(header("<i4", "(1,)"), "abcdefgh")}}, "should have");
  expect_corrupt({{"x.npy", npy(header("<i8", "(4294967296, 4294967296)"), "abcd")}}, "more than 1073741824 bytes");
  expect_corrupt({{"x.npy", "\x93NUMPY"}}, "not an .npy file");
  expect_corrupt({{"x.npy", ""}}, "not an .npy file");
  expect_corrupt({{"x.npy", npy(header("<i4", "(1,)"), "abcd", 4)}}, "version 1 to 3");
  std::string long_header = npy(header("<i4", "(1,)"), "");
  long_header[8] = static_cast<char>(0xff);
  expect_corrupt({{"x.npy", long_header}}, "its header should have");
}

TEST_F(ArraysTest, RejectsMembersThatNumpyDoesNotWrite) {
  const std::string array = npy(header("|i1", "(1000,)"), std::string(1000, 'x'));
  const std::string entry = "PK\x01\x02";  // of the directory
  constexpr std::size_t kFlags = 8, kMethod = 10, kCrc = 16, kOffset = 42;
  expect_corrupt_after({{"x.npy", array}}, "neither stored nor deflated",
                       [&](std::string& data) { data[data.find(entry) + kMethod] = 12; });
  expect_corrupt_after({{"x.npy", array}}, "neither stored nor deflated",
                       [&](std::string& data) { data[data.find(entry) + kFlags] |= 1; });
  // The second lies where the first does, and takes no bytes of its own.
  expect_corrupt_after({{"x.npy", array}, {"y.npy", ""}}, "'y': announces", [&](std::string& data) {
    const std::size_t first = data.find(entry), second = data.find(entry, first + 1);
    data.replace(second + kCrc, 12, data, first + kCrc, 12);
    data.replace(second + kOffset, 4, data, first + kOffset, 4);
  });
}

TEST_F(ArraysTest, RejectsNamesThatComeTwice) {
  const std::string array = npy(header("<i4", "(1,)"), "abcd");
  expect_corrupt({{"x.npy", array}, {"x.npy", array}}, "'x' comes twice");
}

TEST_F(ArraysTest, RejectsWhatIsNoArchive) {
  expect_error(Result::kBundleCorrupt, "there is no such file",
               [&] { Arrays::read(listed_file(folder_.path() / "none.npz")); });
  std::ofstream(folder_.path() / "text.npz") << "no archive";
  expect_error(Result::kBundleCorrupt, "not a readable .npz file",
               [&] { Arrays::read(listed_file(folder_.path() / "text.npz")); });
}

TEST_F(ArraysTest, EveryChangedByteEndsInAnArrayOrATypedError) {
  const std::filesystem::path path = write({{"x.npy", npy(header("<i4", "(300,)"), std::string(1200, 'x'))}});
  std::ifstream file(path, std::ios::binary);
  const std::string good(std::istreambuf_iterator<char>(file), {});
  // What is cut off the comment at the end of an archive goes unnoticed; what is read is right all the same, or an
  // error.
  const auto expect_contained = [&](const std::string& damaged) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << damaged;
    try {
      const Arrays arrays = Arrays::read(listed_file(path));
      for (const auto& [name, array] : arrays.all())
        EXPECT_EQ(array.data, std::vector<std::byte>(1200, std::byte{'x'}));
    } catch (const Error& error) {
      EXPECT_EQ(error.result(), Result::kBundleCorrupt);
    }
  };
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 0xff);
    expect_contained(damaged);
  }
  for (std::size_t n = 0; n < good.size(); ++n) expect_contained(good.substr(0, n));
}

}  // namespace
}  // namespace rdeic
