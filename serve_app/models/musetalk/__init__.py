"""MuseTalk 1.5 (arXiv:2410.10122): repaints the lower half of a face so that it speaks."""
