"""Inference networks of the codec, one file per network, all built from one :class:`~.config.ModelConfig`.

Those of the single-step family are in `diffo`, built from one :class:`~.diffo.config.DiffoConfig`.
"""
