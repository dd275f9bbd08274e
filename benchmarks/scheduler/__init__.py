"""What the scheduler costs and what it saves: `python -m benchmarks.scheduler`, some minutes."""
