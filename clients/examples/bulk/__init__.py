"""What `bulk_job.py` does to files and rows, without Ray: cut, read, score, write, and know what is finished."""
