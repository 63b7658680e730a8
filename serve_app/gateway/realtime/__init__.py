"""OpenAI's Realtime API, beta and GA, over WebRTC and WebSocket."""
