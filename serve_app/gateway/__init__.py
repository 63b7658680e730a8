"""The ingress: one file per protocol, no media state."""
