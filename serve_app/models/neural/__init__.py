"""What the models on a GPU share: official checkpoints, batches of few sizes, memory, and broken frames."""
