"""Experiments of Nath's thesis (2019), *Fixed Point Propagation*."""
