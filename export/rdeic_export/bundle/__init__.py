"""A bundle's folder, written."""
