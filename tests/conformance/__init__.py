"""Both runtimes on the same inputs."""
