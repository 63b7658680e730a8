"""The deployment that runs a model, and its client."""
