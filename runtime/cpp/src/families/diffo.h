#pragma once

#include "families/family.h"

namespace rdeic::families {

/// DiffO: VQ indices are coded; the UNet makes z_0 of their base and noise in one step (DiffO, arXiv 2506.16572).
const Family& diffo();

}  // namespace rdeic::families
