"""This server beside what a user would build instead: the same model, pairs, cores and answers for all."""
