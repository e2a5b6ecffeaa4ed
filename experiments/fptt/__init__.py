"""Experiments of Kag & Saligrama (2021), *Training recurrent neural networks via forward propagation through time*."""
