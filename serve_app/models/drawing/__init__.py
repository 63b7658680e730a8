"""Draws a face as it speaks: measures, fields of motion, the inside of the mouth, and the painter."""
