"""Who decides what the avatar says: one small interface, and the agents that come with the server."""
