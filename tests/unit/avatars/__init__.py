"""Tests of serve_app.avatars."""
