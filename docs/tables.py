"""Tables in Markdown, and where the repository is: what all generated pages share."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
BAR = "\\|"  # within a cell of a table


def table(header, rows) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', BAR) for cell in line)} |\n" for line in lines)
