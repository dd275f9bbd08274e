"""Programs to copy from: what the service's parts do outside the service."""
