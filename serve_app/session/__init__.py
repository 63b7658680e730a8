"""Sessions: their hosts, their state and their registry."""
