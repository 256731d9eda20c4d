#pragma once

// Graphs, tables and entropy models of a bundle, each loaded when it is first needed, once.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "bundle.h"
#include "bundle_tables.h"
#include "entropy/model.h"
#include "families/family.h"
#include "load_once.h"

namespace rdeic {

/// What a codec has loaded of its bundle so far. May be used by several threads at once.
class Loaded {
 public:
  /// `precision`: as `CodecOptions` has it; `kinds`: of entropy models. Throws Error: kInvalidArgument for no such
  /// precision, kBackendUnavailable unless some rate has all its graphs in it for the backend.
  Loaded(std::shared_ptr<const Bundle> bundle, std::unique_ptr<const backends::Backend> backend, std::string precision,
         std::span<const entropy::Kind> kinds);

  const Bundle& bundle() const { return *bundle_; }

  /// Returns the form of a rate's graph that the backend runs; errors as for `backends::choose_form`.
  const GraphSpec& form_of(const Rate& rate, const std::string& role) const;
  std::shared_ptr<const backends::Graph> graph(const GraphSpec& spec);
  /// Begins to load all graphs of these stages, while other work is done.
  void begin(const families::StageList& list);

  /// Returns a rate's entropy model; Error(kBundleCorrupt) if bundle.json says that it is another.
  std::shared_ptr<const entropy::Model> model(const Rate& rate);
  /// Returns what the input `step` of each role's graph is at each step of a schedule, by role.
  std::shared_ptr<const RowsByRole> step_rows(const Rate& rate, const Schedule& schedule);
  /// Returns the rows that graphs which read latents have at a level, as `families::level_input` names them; none where
  /// there are no levels.
  Values level_rows(const Rate& rate, std::uint32_t level);

 private:
  LoadOnce<backends::Graph>::Make maker_of(const GraphSpec& spec) const;

  const std::shared_ptr<const Bundle> bundle_;
  const std::unique_ptr<const backends::Backend> backend_;
  const std::string precision_;
  const std::span<const entropy::Kind> kinds_;
  LoadOnce<entropy::Model> models_;
  LoadOnce<RowsByRole> step_rows_, level_rows_;
  LoadOnce<backends::Graph> graphs_;  // last: threads that load graphs use what is above until this is gone
};

/// Gives a family what is loaded of one rate.
class RateLoader final : public families::Loader {
 public:
  /// Both must outlive this object.
  RateLoader(Loaded& loaded, const Rate& rate) : loaded_(loaded), rate_(rate) {}

  std::shared_ptr<const backends::Graph> graph(const std::string& role) const override;
  ValuePtr step_row(const Schedule& schedule, const std::string& role, std::size_t step) const override;

 private:
  Loaded& loaded_;
  const Rate& rate_;
};

}  // namespace rdeic
