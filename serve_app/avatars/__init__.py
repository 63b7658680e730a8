"""Avatars: prepared identities and where they are kept."""
