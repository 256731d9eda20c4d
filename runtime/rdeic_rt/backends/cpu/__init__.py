"""Backends that compute on the CPU."""
