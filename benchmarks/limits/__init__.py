"""What the limits cost: `python -m benchmarks.limits`, about two minutes."""
