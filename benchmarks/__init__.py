"""This server beside others, or beside the bare engine, on the same work in the same run."""
