"""Asynchronous delivery: futures, callbacks, joined sending, pacing, retries. Knows no Ray: a transport carries it."""
