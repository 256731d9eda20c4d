"""What happens inside a model on photos: activation ranges, and the noise of layers in 8 bits."""
