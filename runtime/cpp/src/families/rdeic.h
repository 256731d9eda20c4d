#pragma once

#include "families/family.h"

namespace rdeic::families {

/// RDEIC: y and VQ indices are coded; denoising starts from z_c plus slight noise (RDEIC, section 3).
const Family& rdeic();

}  // namespace rdeic::families
