"""The feature index: one pass over a text, and everything that a page about a feature shows."""
