"""Writing a bundle's folder."""
