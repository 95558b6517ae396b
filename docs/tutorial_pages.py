"""Run the tutorials, scripts of cells in docs/tutorials, and write each as a page with its output and its figures."""

import contextlib
import io
import multiprocessing
import re
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "tutorials"
CELL = re.compile(r"^# %%(?: (\[markdown\]|plot))?\n", re.M)


def write_pages(out: Path) -> None:
    """Write every tutorial to ``out``, two at a time: NAME.md and, for each figure, NAME-1.png and so on."""
    out.mkdir(exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(write_page, [(path, out) for path in sorted(SOURCES.glob("*.py"))], chunksize=1)


def write_page(path: Path, out: Path) -> None:
    """Write the tutorial ``path`` to ``out``.

    A cell begins with ``# %%``; ``# %% [markdown]`` is text, each line behind a ``#``. The code of ``# %% plot`` is
    folded. What stands before the first cell is left out. A cell's ``figure`` is shown behind what it prints.
    """
    _, *rest = CELL.split(path.read_text())
    namespace: dict[str, Any] = {"__name__": path.stem}
    parts, figures = [], 0
    for kind, cell in zip(rest[::2], rest[1::2], strict=True):
        if kind == "[markdown]":
            parts.append(re.sub(r"^# ?", "", cell.strip(), flags=re.M))
            continue
        code = f"```python\n{cell.strip()}\n```"
        parts.append(f"<details><summary>The plot's code</summary>\n\n{code}\n\n</details>" if kind else code)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(cell, path.name, "exec"), namespace)
        if printed.getvalue():
            parts.append(f"```text\n{printed.getvalue().rstrip()}\n```")
        if (figure := namespace.pop("figure", None)) is not None:
            figures += 1
            picture = f"{path.stem}-{figures}.png"
            figure.savefig(out / picture, dpi=150)
            parts.append(f"![{figure.axes[0].get_title()}]({picture})")
    parts.append(
        f"The code of this page is `docs/tutorials/{path.name}`; editors that know `# %%` cells run it in parts."
    )
    (out / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n")
