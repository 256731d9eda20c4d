#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace rdeic::testing {

/// Leaves out of a bundle of family `rdeic` what only encodes, as `rdeic-rt bundle push --decode-only` does.
inline void leave_out_encoding(const std::filesystem::path& folder) {
  std::ifstream file(folder / "bundle.json");
  nlohmann::ordered_json document = nlohmann::ordered_json::parse(file);
  for (auto& rate : document["rates"]) {
    const auto graph = document["graphs"].find(rate["graphs"]["analysis"].get<std::string>());
    rate["graphs"].erase("analysis");
    if (graph == document["graphs"].end()) continue;  // shared with an earlier rate
    for (const auto& form : graph.value()["forms"]) {
      document["files"].erase(form.get<std::string>());
      std::filesystem::remove(folder / form.get<std::string>());
    }
    document["graphs"].erase(graph);
  }
  std::ofstream(folder / "bundle.json") << document.dump();
}

}  // namespace rdeic::testing
