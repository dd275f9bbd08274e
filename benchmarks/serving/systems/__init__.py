"""One file for each way to serve: an adapter of at most 40 lines, and beside it what it starts."""
