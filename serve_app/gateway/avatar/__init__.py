"""Document 001: sessions over REST, speech over the avatar socket, pictures in a room."""
