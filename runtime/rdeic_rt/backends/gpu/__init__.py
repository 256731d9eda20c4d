"""What backends on a GPU share, and ONNX Runtime on it."""
