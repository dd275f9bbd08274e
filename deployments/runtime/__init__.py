"""What holds requests while they wait, and follows the key file: state and a clock, but no Ray and no HTTP."""
