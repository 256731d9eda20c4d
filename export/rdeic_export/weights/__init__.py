"""Sources of a model's weights."""
