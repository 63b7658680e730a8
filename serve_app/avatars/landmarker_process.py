"""Finds faces and people in pictures: a program of the tool environment, not of the server.

It runs by its path in an interpreter that has mediapipe 0.10.21, whose wheel carries its networks and needs
numpy < 2; nothing of serve_app can be imported there. `landmarks.py` is its other end.

Each message is a line of JSON, then as many bytes as the line says. Requests, on standard input:
`{"do": "faces" | "matte", "width", "height", "bytes"}` and [height, width, 3] uint8 RGB. Answers, on standard
output: `{"faces": n, "bytes"}` and [n, 478, 3] float32 (x, y in pixels, z in the scale of x, smaller towards
the viewer); `{"matte": true, "bytes"}` and [height, width] uint8; or `{"error", "bytes": 0}`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from typing import Any, BinaryIO

MAX_PIXELS = 2048 * 2048
MAX_FACES = 8
MARGIN = 0.6
"""Of a face's box, added on each side before its points are looked for."""


def main() -> None:
    """Serve requests until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    limits = parser.parse_args()
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, limits.cpu_s)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    # Libraries print; what they print must not end up between the answers.
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


def _limit(what: int, most: int) -> None:
    """Lower a limit; one that is lower already stays."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    finder = Finder()
    while line := requests.readline(4096):
        request = json.loads(line)
        width, height, size = int(request["width"]), int(request["height"]), int(request["bytes"])
        if size != width * height * 3 or not 0 < width * height <= MAX_PIXELS:
            _answer(answers, {"error": f"expected width*height*3 bytes, found {width}x{height}, {size}"}, b"")
            return
        pixels = requests.read(size)
        if len(pixels) != size:
            return
        try:
            head, content = finder.answer(request["do"], pixels, width, height)
        except Exception as error:  # noqa: BLE001 - the other end is told, whatever failed in the networks
            head, content = {"error": f"{type(error).__name__}: {error}"[:400]}, b""
        _answer(answers, head, content)


def _answer(answers: BinaryIO, head: dict[str, Any], content: bytes) -> None:
    answers.write(json.dumps({**head, "bytes": len(content)}).encode() + b"\n" + content)
    answers.flush()


class Finder:
    """Mediapipe's networks, each loaded when it is first needed."""

    def __init__(self) -> None:
        import mediapipe

        self._solutions: Any = mediapipe.solutions
        self._loaded: dict[str, Any] = {}

    def answer(self, what: str, pixels: bytes, width: int, height: int) -> tuple[dict[str, Any], bytes]:
        """Return the head and the bytes of the answer to one request."""
        import numpy as np

        rgb = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        if what == "faces":
            faces = self._faces(rgb)
            return {"faces": len(faces)}, np.asarray(faces, np.float32).tobytes()
        if what == "matte":
            mask = self._network("person").process(rgb).segmentation_mask
            return {"matte": True}, np.round(np.clip(mask, 0, 1) * 255).astype(np.uint8).tobytes()
        raise ValueError(f"expected faces or matte, found {what!r}")

    def _network(self, name: str) -> Any:  # noqa: ANN401 - mediapipe has no types
        if name not in self._loaded:
            solutions = self._solutions
            if name == "person":
                made = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
            elif name == "mesh":
                made = solutions.face_mesh.FaceMesh(
                    static_image_mode=True,
                    max_num_faces=1,
                    refine_landmarks=True,
                    min_detection_confidence=0.4,
                )
            else:
                made = solutions.face_detection.FaceDetection(
                    model_selection=1 if name == "far" else 0, min_detection_confidence=0.5
                )
            self._loaded[name] = made
        return self._loaded[name]

    def _faces(self, rgb: Any) -> list[Any]:  # noqa: ANN401
        """Return the points of each face, the surest first."""
        found = []
        for box in self._boxes(rgb):
            points = self._points(rgb, box)
            if points is not None:
                found.append(points)
        return found

    def _boxes(self, rgb: Any) -> list[tuple[float, float, float, float]]:  # noqa: ANN401
        """Return each face's box (x, y, w, h) in pixels, as both detectors see them."""
        height, width = rgb.shape[:2]
        scored = []
        for name in ("near", "far"):
            for one in self._network(name).process(rgb).detections or []:
                box = one.location_data.relative_bounding_box
                scored.append(
                    (
                        one.score[0],
                        (box.xmin * width, box.ymin * height, box.width * width, box.height * height),
                    )
                )
        kept: list[tuple[float, float, float, float]] = []
        for _, box in sorted(scored, reverse=True):
            if all(_overlap(box, other) < 0.3 for other in kept):
                kept.append(box)
        return kept[:MAX_FACES]

    def _points(self, rgb: Any, box: tuple[float, float, float, float]) -> Any:  # noqa: ANN401
        """Return [478, 3] points of the face in a box, or None; a close view of it gives the best ones."""
        import numpy as np

        height, width = rgb.shape[:2]
        x, y, w, h = box
        side = max(w, h) * (1 + 2 * MARGIN)
        left, top = int(max(0, x + w / 2 - side / 2)), int(max(0, y + h / 2 - side / 2))
        right, bottom = int(min(width, x + w / 2 + side / 2)), int(min(height, y + h / 2 + side / 2))
        if right - left < 16 or bottom - top < 16:
            return None
        close = np.ascontiguousarray(rgb[top:bottom, left:right])
        meshes = self._network("mesh").process(close).multi_face_landmarks
        if not meshes:
            return None
        across, down = right - left, bottom - top
        return np.asarray(
            [(left + p.x * across, top + p.y * down, p.z * across) for p in meshes[0].landmark], np.float32
        )


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Return the intersection of two boxes over the smaller one."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / max(1e-9, min(a[2] * a[3], b[2] * b[3]))


if __name__ == "__main__":
    main()
