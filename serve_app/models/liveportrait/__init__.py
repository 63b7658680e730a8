"""The model `liveportrait`: a photograph moved by implicit keypoints (LivePortrait, arXiv 2407.03168).

Shape letters: B batch, K implicit keypoints, C channels, D x H x W the feature volume, S the picture's side.
"""
