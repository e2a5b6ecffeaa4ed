"""Experiments of the papers: recipes with frozen settings, the claim each is held against, and a verdict."""
