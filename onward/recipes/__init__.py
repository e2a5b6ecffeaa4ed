"""Recipes: experiments of the papers, each with frozen settings, what the paper reports, and a verdict."""
