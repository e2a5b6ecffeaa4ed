"""Transformations of gradients, for any estimator: each an Optax `GradientTransformation`."""
