"""The only code that knows aiortc."""
