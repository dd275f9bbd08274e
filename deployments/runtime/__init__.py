"""What holds requests while they wait, on one event loop: state and a clock, but no Ray and no HTTP."""
