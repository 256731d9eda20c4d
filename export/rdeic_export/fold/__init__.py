"""Specialisation for the fixed loop: one idea per file, each an equivalence that has a test."""
