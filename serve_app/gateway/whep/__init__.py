"""Watching any running session (WHEP, draft-ietf-wish-whep-04)."""
