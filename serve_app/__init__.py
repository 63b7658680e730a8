"""Talking avatars in real time on Ray Serve."""
