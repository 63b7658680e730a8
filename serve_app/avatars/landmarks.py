"""Points of faces and mattes of people, from mediapipe in an environment of its own.

Mediapipe 0.10.21 is the last that carries its networks in the wheel, and it needs numpy < 2: it cannot share
the server's environment. `install_tools` makes one for it, and a `Landmarker` runs landmarker_process.py
there for the time of one photograph.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from serve_app.errors import AvatarError
from serve_app.nouns import UInt8

Points: TypeAlias = npt.NDArray[np.float32]
"""[N, 3]: x and y in pixels, z in the scale of x, smaller towards the viewer."""

MAX_SIDE = 2048
"""Longest side of a picture that the program takes."""

FACE_POINTS = 478
"""Of a face: mediapipe's canonical face mesh (468) and the irises (2 x 5)."""

TIMEOUT_S = 20.0
"""Longest wait for an answer; the first takes under a second on a free core."""

MEMORY_BYTES = 2 * 1024**3
CPU_S = 600
"""For one program. A face takes 15 ms of a core, and a video has 600 to be looked for."""

REQUIREMENTS = (
    "numpy>=1.26,<2",
    "opencv-contrib-python-headless==4.11.0.86",
    "absl-py",
    "attrs",
    "flatbuffers",
    "protobuf>=4.25,<5",
    "matplotlib",
)
"""What mediapipe imports for faces; what else its wheel asks for (jax, 500 MB) is never imported."""

MEDIAPIPE = "mediapipe==0.10.21"

INSTALL = "avatar tools"
"""The command that a missing environment's error names."""

_PROGRAM = Path(__file__).with_name("landmarker_process.py")


class ToolsMissing(AvatarError):
    """The environment that finds faces is not installed, or does not work."""

    code = "tools_missing"


def default_tools() -> Path:
    """Return where the tool environment lies: $AVATAR_TOOLS, or in the user's cache."""
    if named := os.environ.get("AVATAR_TOOLS"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "serve-app" / "avatar-tools"


def interpreter_of(tools: Path | None = None) -> Path:
    """Return the interpreter of the tool environment.

    Raises:
        ToolsMissing: there is none; the text names the command that makes it.
    """
    folder = tools or default_tools()
    python = folder / "bin" / "python"
    if not (folder / "installed.json").is_file() or not os.access(python, os.X_OK):
        raise ToolsMissing(
            f"expected the tools that find faces in {folder}, found none; install them with: {INSTALL}"
        )
    return python


def install_tools(tools: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """Make the tool environment, 430 MB, and return its folder; one that is as wanted is left alone.

    Args:
        tools: where; None for `default_tools()`.
        say: told what is being done.

    Raises:
        ToolsMissing: a step failed; the text ends with what it printed.
    """
    folder = tools or default_tools()
    if is_installed(folder):
        say("they are there")
        return folder
    (folder / "installed.json").unlink(missing_ok=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    steps = (
        ("making the environment", [sys.executable, "-m", "venv", "--clear", str(folder)]),
        (f"installing {MEDIAPIPE}", [*pip, "--no-deps", MEDIAPIPE]),
        ("installing what it needs", [*pip, *REQUIREMENTS]),
    )
    for text, command in steps:
        say(text)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolsMissing(f"{text} failed:\n{done.stderr[-2000:]}")
    say("trying it")
    (folder / "installed.json").write_text(json.dumps(INSTALLED) + "\n")
    try:
        with Landmarker(folder) as landmarker:
            landmarker.faces(np.zeros((256, 256, 3), np.uint8))
    except ToolsMissing:
        (folder / "installed.json").unlink(missing_ok=True)
        raise
    return folder


INSTALLED = {"mediapipe": MEDIAPIPE, "requirements": list(REQUIREMENTS)}
"""What a finished environment says that it holds."""


def is_installed(folder: Path) -> bool:
    """Return whether a tool environment was finished, with the packages that are wanted now."""
    try:
        interpreter_of(folder)
        return bool(json.loads((folder / "installed.json").read_text()) == INSTALLED)
    except (ToolsMissing, OSError, ValueError):
        return False


class FaceFinder(Protocol):
    """Finds faces and people; a Landmarker does."""

    def faces(self, rgb: UInt8) -> list[Points]:
        """Return the points of each face in a picture, the surest first."""
        ...

    def faces_of(self, pictures: Iterable[UInt8]) -> Iterator[list[Points]]:
        """Yield the faces of each picture, in order."""
        ...

    def matte(self, rgb: UInt8) -> UInt8:
        """Return where people are."""
        ...


class Landmarker:
    """The running program, for one photograph or video: a context manager.

    Args:
        tools: the tool environment; None for `default_tools()`.
        timeout_s: longest wait for one answer.

    Raises:
        ToolsMissing: the environment is missing or does not work.
    """

    def __init__(self, tools: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._python = interpreter_of(tools)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._last_words = b""
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Landmarker:
        command = [str(self._python), "-I", str(_PROGRAM)]
        command += ["--memory-bytes", str(MEMORY_BYTES), "--cpu-s", str(CPU_S)]
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GLOG_minloglevel": "2",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "MPLCONFIGDIR": str(self._python.parent.parent / "matplotlib"),
            "OMP_NUM_THREADS": "2",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
        )
        # Its words must be read as they come, or a full pipe stops it.
        self._reader = threading.Thread(target=self._listen, name="landmarker", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None, "entered before"
        process.kill()
        process.wait()
        if self._reader is not None:
            self._reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    # What was still to be written to a dead program.
                    continue

    def faces(self, rgb: UInt8) -> list[Points]:
        """Return the points of each face in a picture, the surest first.

        Args:
            rgb: [H, W, 3] uint8, no side above MAX_SIDE.

        Returns:
            For each face [FACE_POINTS, 3] float32: x and y in pixels, z in the scale of x, smaller towards
            the viewer.
        """
        return _faces(*self._ask("faces", rgb))

    def faces_of(self, pictures: Iterable[UInt8]) -> Iterator[list[Points]]:
        """Yield the faces of each picture, as `faces` does; the next one is fetched while it works."""
        waiting = False
        for rgb in pictures:
            if waiting:
                answer = self._answer()
                self._send("faces", rgb)
                yield _faces(*answer)
            else:
                self._send("faces", rgb)
                waiting = True
        if waiting:
            yield _faces(*self._answer())

    def matte(self, rgb: UInt8) -> UInt8:
        """Return where people are: [H, W] uint8, 255 for a person.

        Args:
            rgb: [H, W, 3] uint8, no side above MAX_SIDE.
        """
        _, content = self._ask("matte", rgb)
        height, width = rgb.shape[:2]
        if len(content) != height * width:
            raise ToolsMissing(f"expected a matte of {height * width} bytes, found {len(content)}")
        return np.frombuffer(content, np.uint8).reshape(height, width)

    def _ask(self, what: str, rgb: UInt8) -> tuple[dict[str, Any], bytes]:
        self._send(what, rgb)
        return self._answer()

    def _send(self, what: str, rgb: UInt8) -> None:
        """Send a request; its answer must be read before another is sent.

        A program that has ended is noticed where its answer is missing.
        """
        process = self._process
        assert process is not None, "used within `with`"
        assert process.stdin is not None
        height, width = rgb.shape[:2]
        head = {"do": what, "width": width, "height": height, "bytes": rgb.nbytes}
        with self._in_time(), contextlib.suppress(OSError):
            process.stdin.write(json.dumps(head).encode() + b"\n" + np.ascontiguousarray(rgb).tobytes())
            process.stdin.flush()

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        process = self._process
        assert process is not None, "used within `with`"
        assert process.stdout is not None
        with self._in_time():
            try:
                line = process.stdout.readline(4096)
                answer: dict[str, Any] = json.loads(line) if line else {"error": "no answer", "bytes": 0}
                content = process.stdout.read(int(answer["bytes"]))
            except (OSError, ValueError, KeyError) as error:
                answer, content = {"error": type(error).__name__}, b""
        if error_text := answer.get("error"):
            raise ToolsMissing(f"the landmarker failed: {error_text}{self._said()}")
        return answer, content

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """End the program when it takes too long.

        Raises:
            ToolsMissing: it took too long.
        """
        process, late = self._process, threading.Event()
        assert process is not None, "used within `with`"

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._timeout_s, give_up)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if late.is_set():
            raise ToolsMissing(
                f"expected an answer of the landmarker within {self._timeout_s:g} s, found none"
            )

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while chunk := os.read(self._process.stderr.fileno(), 4096):
            self._last_words = (self._last_words + chunk)[-2000:]

    def _said(self) -> str:
        """Return the last line that the program printed before it ended, if it did."""
        process = self._process
        if process is None or process.poll() is None or self._reader is None:
            return ""
        self._reader.join(1.0)
        lines = self._last_words.decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:300]})" if lines else f" (it ended with {process.returncode})"


def _faces(head: dict[str, Any], content: bytes) -> list[Points]:
    number = int(head.get("faces", 0))
    if number == 0:
        return []
    points = np.frombuffer(content, np.float32)
    if points.size != number * FACE_POINTS * 3:
        raise ToolsMissing(f"expected {FACE_POINTS} points a face, found {points.size} numbers for {number}")
    return list(points.reshape(number, FACE_POINTS, 3))
