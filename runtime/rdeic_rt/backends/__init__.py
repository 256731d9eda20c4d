"""Where graphs run: the interface in `base`, the choice in `select`, one module for each backend."""
