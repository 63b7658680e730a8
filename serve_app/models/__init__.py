"""Models: audio windows in, clips out. Torch and numpy only, so they run on any machine."""
