#pragma once

// What the .npz files of a bundle hold, checked against its bundle.json: entropy models, and the rows that graphs read.

#include <map>
#include <memory>
#include <span>
#include <string>

#include "arrays.h"
#include "bundle.h"
#include "entropy/model.h"
#include "rows.h"

namespace rdeic {

/// Rows by the role whose graph reads them.
using RowsByRole = std::map<std::string, Rows>;

/// Returns the entropy model of a rate, from the arrays of its file. Throws Error(kBundleCorrupt) if it is not the one
/// that bundle.json names, or a graph reads what files are decoded to on another grid than the model's, for this rate
/// and all that have the same file.
std::shared_ptr<const entropy::Model> model_of(const Bundle& bundle, const Rate& rate, const Arrays& arrays,
                                               std::span<const entropy::Kind> kinds = entropy::kinds());

/// Returns what the input `step` of each role's graph is at each step of a schedule, from a step table of the rate.
/// Throws Error(kBundleCorrupt).
RowsByRole step_rows_of(const Bundle& bundle, const Rate& rate, const Schedule& schedule, const Arrays& arrays);

/// Returns what the input `level` of each graph that reads latents is at each level; the bundle must have levels.
/// Throws Error(kBundleCorrupt).
RowsByRole level_rows_of(const Bundle& bundle, const Rate& rate, const Arrays& arrays);

}  // namespace rdeic
