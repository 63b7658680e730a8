"""From what a client says to windows for the models."""
