"""`python -m benchmarks.dashboards` writes the dashboards that Grafana is provisioned with."""

from __future__ import annotations

from pathlib import Path

from benchmarks.dashboards import generation, gpu, hosts, jobs, media, overview, requests, runbooks, tokenizer

TARGET = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
BOARDS = tuple(module.BOARD for module in (overview, requests, tokenizer, generation, media, gpu, hosts, jobs))


def files() -> dict[Path, str]:
    """Return the text of every dashboard by its file."""
    index, *pages = runbooks.boards()
    found = {TARGET / f"{board.name}.json": board.render() for board in (*BOARDS, index)}
    return found | {TARGET / "runbooks" / f"{page.name}.json": page.render() for page in pages}


def main() -> None:
    """Write the files, and remove those of dashboards that are gone."""
    texts = files()
    for path in set(TARGET.rglob("*.json")) - texts.keys():
        path.unlink()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
