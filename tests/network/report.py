"""The figures of this suite, for whoever reads its output and for `test-artifacts/network.md`."""

from __future__ import annotations

from pathlib import Path

ARTIFACT = Path(__file__).resolve().parents[2] / "test-artifacts" / "network.md"

HEAD = ("network", "what was measured", "bound")


class Report:
    """Rows of one table, in the order of the tests."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def add(self, network: str, figure: str, bound: str) -> None:
        """Add a row, and print it."""
        self.rows.append((network, figure, bound))
        print(f"{network}: {figure} (bound: {bound})")  # noqa: T201 - for the test's own output

    def table(self) -> str:
        """Return the table as Markdown."""
        lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ("---",) * len(HEAD), *self.rows)]
        return "\n".join(lines) + "\n"

    def save(self) -> None:
        """Write the table to ARTIFACT."""
        ARTIFACT.parent.mkdir(exist_ok=True)
        ARTIFACT.write_text(self.table())
