"""The service: files here are Ray, folders are Ray-free."""
