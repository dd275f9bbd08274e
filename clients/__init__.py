"""The callers' side: the command line, and clients. Imports no Ray, no torch."""
