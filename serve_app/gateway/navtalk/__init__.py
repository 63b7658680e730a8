"""Document 002: NavTalk's unified WebSocket and the look-ups of its SDKs."""
