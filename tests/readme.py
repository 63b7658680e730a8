"""The README's code, as its readers find it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.server import ROOT, Server


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        heading: of the section it stands in.
        language: as the fence says.
        code: what it holds.
    """

    heading: str
    language: str
    code: str

    def against(self, server: Server) -> str:
        """Return the code with the address of a running server."""
        return self.code.replace("localhost:8765", f"127.0.0.1:{server.port}")


def blocks(language: str) -> list[Block]:
    """Return the README's blocks in a language, in order."""
    found = re.findall(
        r"^#+ (.+?)$|^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    heading, listed = "", []
    for title, fence, code in found:
        heading = title or heading
        if fence == language:
            listed.append(Block(heading, fence, code))
    return listed


def title_of(block: Block) -> str:
    """Return what a test of a block is called."""
    return block.heading.lower().replace(" ", "-")
