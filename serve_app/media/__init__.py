"""Sound and picture as pure computation: no Ray, no torch, no aiortc."""
