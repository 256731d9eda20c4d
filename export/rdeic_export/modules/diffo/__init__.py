"""Networks of DiffO, the single-step family: a vector-quantised base, and one call of a UNet that refines it."""
