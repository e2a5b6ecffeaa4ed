"""Experiments of Ollivier, Tallec & Charpiat (2015), *Training recurrent networks online without backtracking*."""
