// Graphs in every form that is known to reach outside of a bundle: those that tests/conformance/hostile_graphs.py made,
// and files that change.

#include "graph_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <numeric>

#include "expect_error.h"
#include "input_limits.h"
#include "sha256.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using Bytes = std::vector<std::uint8_t>;

const fs::path kCorpus = RDEIC_SOURCE_DIR "/tests/fuzz/corpus/onnx_walk";

Bytes read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A folder with a graph and 16 bytes of weights, w.data, both listed; files that are not; and a file outside of it.
class GraphFileTest : public ::testing::Test {
 protected:
  GraphFileTest() {
    fs::create_directories(folder_ / "sub");
    write(temporary_.path() / "secret.bin", Bytes(64));
    write(folder_ / "unlisted.bin", Bytes(64));
    fs::create_symlink(temporary_.path() / "secret.bin", folder_ / "link.bin");
    std::iota(weights_.begin(), weights_.end(), std::uint8_t{0});
  }

  static void write(const fs::path& path, const Bytes& data) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  }

  /// Writes a file and returns it as it is listed.
  BundleFile listed(const std::string& name, const Bytes& data) const {
    write(folder_ / name, data);
    Sha256 hash;
    hash.update(data);
    return {folder_ / name, data.size(), hex(hash.finish()), verify_};
  }

  GraphSpec spec(const Bytes& graph) const {
    GraphSpec made;
    made.file = listed("g.onnx", graph);
    made.listed =
        std::make_shared<const BundleFiles>(BundleFiles{{"g.onnx", made.file}, {"w.data", listed("w.data", weights_)}});
    return made;
  }

  testing::TemporaryFolder temporary_;
  fs::path folder_ = temporary_.path() / "bundle";
  Bytes weights_ = Bytes(16);
  bool verify_ = true;
};

TEST_F(GraphFileTest, RefusesAllThatReachesOutsideAndNothingElse) {
  std::size_t accepted = 0, refused = 0;
  for (const auto& entry : fs::directory_iterator(kCorpus)) {
    const std::string name = entry.path().filename();
    SCOPED_TRACE(name);
    const GraphSpec graph = spec(read_bytes(entry.path()));
    if (name.starts_with("accepted_")) {
      EXPECT_NO_THROW(read_graph(graph));
      ++accepted;
    } else if (name.starts_with("refused_")) {
      expect_error(Result::kBundleCorrupt, "g.onnx", [&] { read_graph(graph); });
      ++refused;
    }
  }
  EXPECT_GE(accepted, 4U);
  EXPECT_GE(refused, 90U);
}

TEST_F(GraphFileTest, WeightsAreWhatTheListedFileHolds) {
  const GraphFile graph = read_graph(spec(read_bytes(kCorpus / "accepted_two_of_one_file")));
  ASSERT_EQ(graph.weights.size(), 2U);
  fs::remove_all(folder_);
  for (const MappedWeight& weight : graph.weights) {
    const std::uint8_t first = weight.about.name == "w0" ? 0 : 2;
    EXPECT_EQ(Bytes(weight.values.begin(), weight.values.end()), (Bytes{first, static_cast<std::uint8_t>(first + 1)}));
  }
  EXPECT_EQ(graph.weights[0].map, graph.weights[1].map);
}

TEST_F(GraphFileTest, AGraphInASubfolderHasItsWeightsThere) {
  GraphSpec graph;
  graph.folder = "sub/";
  graph.file = listed("sub/g.onnx", read_bytes(kCorpus / "accepted_listed"));
  graph.listed = std::make_shared<const BundleFiles>(BundleFiles{{"w.data", listed("w.data", weights_)}});
  expect_error(Result::kBundleCorrupt, "not among the bundle's files", [&] { read_graph(graph); });
  graph.listed = std::make_shared<const BundleFiles>(BundleFiles{{"sub/w.data", listed("sub/w.data", weights_)}});
  EXPECT_EQ(read_graph(graph).weights.size(), 1U);
}

TEST_F(GraphFileTest, FilesThatChangedAreRefused) {
  for (const char* name : {"g.onnx", "w.data"}) {
    SCOPED_TRACE(name);
    const GraphSpec graph = spec(read_bytes(kCorpus / "accepted_listed"));
    const auto refused = [&](const std::string& words) {
      expect_error(Result::kBundleCorrupt, words, [&] { read_graph(graph); });
    };
    const fs::path path = folder_ / name;
    Bytes changed = read_bytes(path);
    changed.back() ^= 1;
    write(path, changed);
    refused("SHA-256");
    changed.push_back(0);
    write(path, changed);
    refused("should have");
    fs::remove(path);
    refused("there is no such file");
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    refused("there is no such file");
    fs::remove(path);
  }
}

TEST_F(GraphFileTest, WithoutHashesTheRulesAreTheSame) {
  verify_ = false;
  const GraphSpec graph = spec(read_bytes(kCorpus / "accepted_listed"));
  write(folder_ / "w.data", Bytes(16, 7));
  EXPECT_EQ(read_graph(graph).weights[0].values[3], 7);
  Bytes elsewhere = read_bytes(folder_ / "g.onnx");
  const std::string name = "w.data";
  *std::search(elsewhere.begin(), elsewhere.end(), name.begin(), name.end()) = 'x';
  write(folder_ / "g.onnx", elsewhere);
  expect_error(Result::kBundleCorrupt, "'x.data', which is not among", [&] { read_graph(graph); });
}

TEST_F(GraphFileTest, FieldsAreBounded) {
  Bytes graph = {7 << 3 | 2, 0};
  for (std::size_t i = 0; i < kMaxOnnxFields; ++i) graph.insert(graph.end(), {2 << 3 | 2, 0});
  expect_error(Result::kBundleCorrupt, "has more than 1048576 fields", [&] { external_weights(graph, "x"); });
  graph.resize(graph.size() - 2);
  EXPECT_TRUE(external_weights(graph, "x").empty());
}

TEST_F(GraphFileTest, EveryGraphThereIsKeepsToTheRules) {
  std::size_t count = 0;
  for (const char* folder : {"/engines/tiny-2", "/tests/golden/v1/bundle", "/tests/golden/v1-levels/bundle"}) {
    for (const auto& entry : fs::directory_iterator(std::string(RDEIC_SOURCE_DIR) + folder)) {
      if (entry.path().extension() != ".onnx") continue;
      EXPECT_TRUE(external_weights(read_bytes(entry.path()), entry.path()).empty());
      ++count;
    }
  }
  EXPECT_GT(count, 10U);
}

}  // namespace
}  // namespace rdeic
