"""Float entropy networks -> integer networks and fixed-point tables."""
