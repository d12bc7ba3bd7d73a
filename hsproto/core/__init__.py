"""Numerics that losses and geometry share, on jax and numpy alone."""
