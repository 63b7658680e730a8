"""Tests of the model `liveportrait` with small networks; the golden tests run them at full size."""
