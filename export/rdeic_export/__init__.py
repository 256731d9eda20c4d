"""Tools that turn RDEIC checkpoints into bundles; needs torch, and is never imported by ``rdeic_rt``."""
