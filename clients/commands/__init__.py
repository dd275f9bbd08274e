"""What `nli-serve` does on the server's machine; each file may import the server, `cli.py` imports them as needed."""
