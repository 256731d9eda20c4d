"""Inference networks of the codec, one file per network, all built from one :class:`~.config.ModelConfig`."""
