"""The forms of a graph: float32, float16, 8 bits."""
