"""What the service and its callers agree on: configuration, wire models, errors, API keys."""
