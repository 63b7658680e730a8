"""Document 000: audio to video over one WebSocket."""
