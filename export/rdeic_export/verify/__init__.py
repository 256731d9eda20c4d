"""What was built against what it was built from."""
