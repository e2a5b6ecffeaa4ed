"""Experiments of Liao et al. (2018), *Reviving and Improving Recurrent Back-Propagation*."""
