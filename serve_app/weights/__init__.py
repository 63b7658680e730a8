"""Weights of others: what there is, under which terms, and how it gets onto this machine."""
