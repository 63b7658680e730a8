"""What no model can animate: a window's failure, found before it shares a batch with others."""

from __future__ import annotations

from collections.abc import Container

from serve_app.nouns import ClipFailure, Window, speech_index


def refusal(window: Window, fps: int, prepared: Container[str]) -> ClipFailure | None:
    """Return why a window cannot be animated; None when it can.

    Args:
        window: which one.
        fps: frames per second of the model.
        prepared: ids of its avatars.
    """
    where = f"window at frame {window.first_frame}"
    if window.avatar_id not in prepared:
        return ClipFailure("avatar_invalid", f"{where}: avatar {window.avatar_id!r} was not prepared")
    if window.num_frames < 1:
        return ClipFailure("model_error", f"{where}: expected 1 frame or more, found {window.num_frames}")
    end = speech_index(window.first_frame + window.num_frames, fps)
    needed = window.left_context + end - speech_index(window.first_frame, fps)
    if len(window.speech) < needed:
        expected = f"{needed} samples or more at 16000 Hz"
        return ClipFailure("model_error", f"{where}: expected {expected}, found {len(window.speech)}")
    return None
