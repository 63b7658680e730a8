"""Tests of serve_app.models."""
