"""Print the rows of a benchmark."""

Row = dict[str, object]


def show(title: str, rows: list[Row], width: int = 50) -> None:
    """Print a title, and for each row its subject and its numbers."""
    print(f"\n{title}")
    for row in rows:
        facts = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
            if name != "what" and value is not None
        )
        print(f"  {row['what']:<{width}} {facts}", flush=True)
