"""Training of the embedded model: autoencoder, base denoiser, independent training, fixed-step fine-tuning."""
