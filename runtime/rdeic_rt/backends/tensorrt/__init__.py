"""TensorRT and TensorRT for RTX: plans and how they are run."""
