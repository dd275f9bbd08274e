"""How fast answers are delivered to Python callers, beside the loop that people write by hand."""
