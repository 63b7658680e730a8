"""Document 003: AG2's RealtimeAgent, whose functions run here and whose voice runs in the browser."""
