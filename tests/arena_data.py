#!/usr/bin/env python3
"""Makes data for examples/arena.py, of the shape and size that HttpArena has, the same each time:

python tests/arena_data.py FOLDER [postgresql:///arena]

FOLDER gets dataset.json, the 50 items for JSON, and static/, 20 files of 3 to 300 KB with compressed forms beside
them; the database a new table `items` of 100,000 rows."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = ["alpha", "widget", "pro", "nova", "ultra", "edge", "prime", "core", "flex", "smart", "mini", "max", "lite"]
CATEGORIES = ["electronics", "tools", "clothing", "books", "food", "office", "sports", "home"]
TAGS = ["fast", "new", "popular", "sale", "eco", "premium", "limited"]
# Kilobytes of each.
FILES = {
    "reset.css": 3, "layout.css": 14, "theme.css": 35, "components.css": 90, "app.js": 60, "vendor.js": 300,
    "helpers.js": 8, "analytics.js": 20, "router.js": 45, "index.html": 10, "help.html": 28, "offer.html": 55,
    "regular.woff2": 26, "bold.woff2": 30, "logo.svg": 4, "icons.svg": 22, "hero.webp": 180, "thumb.webp": 12,
    "menu.json": 6, "catalogue.json": 120,
}  # fmt: skip
TABLE = """CREATE TABLE items (id integer PRIMARY KEY, name text NOT NULL, category text NOT NULL,
price integer NOT NULL, quantity integer NOT NULL, active boolean NOT NULL, tags jsonb NOT NULL,
rating_score integer NOT NULL, rating_count integer NOT NULL)"""


def make_items(count: int) -> Iterator[dict[str, Any]]:
    """So many items, numbered from 1."""
    chance = random.Random(5)
    for number in range(1, count + 1):
        yield {
            "id": number, "name": f"{chance.choice(WORDS)} {chance.choice(WORDS)} {number}".title(),
            "category": chance.choice(CATEGORIES), "price": chance.randint(1, 500),
            "quantity": chance.randint(1, 100), "active": chance.random() < 0.8,
            "tags": chance.sample(TAGS, chance.randint(1, 3)),
            "rating": {"score": chance.randint(1, 50), "count": chance.randint(1, 500)},
        }  # fmt: skip


def make_text(kilobytes: int, chance: random.Random) -> bytes:
    """Text that compresses to about a fifth, as style sheets and scripts do."""
    lines, size = list[str](), 0
    while size < kilobytes * 1000:
        lines.append(f".{'-'.join(chance.choices(WORDS, k=3))} {{ width: {chance.randint(1, 9999)}px; }}\n")
        size += len(lines[-1])
    return "".join(lines)[: kilobytes * 1000].encode()


def make_files(folder: Path) -> None:
    """dataset.json and static/, below this folder."""
    static, chance = folder / "static", random.Random(5)
    static.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps([*make_items(50)]))
    for name, kilobytes in FILES.items():
        if name.endswith((".woff2", ".webp")):  # compressed already
            (static / name).write_bytes(chance.randbytes(kilobytes * 1000))
            continue
        content = make_text(kilobytes, chance)
        (static / name).write_bytes(content)
        (static / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        (static / f"{name}.br").write_bytes(importlib.import_module("brotli").compress(content))


def fill_table(url: str, count: int = 100_000) -> None:
    """A new table of so many items."""
    psycopg = importlib.import_module("psycopg")
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS items")
        connection.execute(TABLE)
        with connection.cursor().copy("COPY items FROM STDIN") as copy:
            for item in make_items(count):
                rating = item.pop("rating")
                item["tags"] = json.dumps(item["tags"])
                copy.write_row([*item.values(), rating["score"], rating["count"]])
        connection.execute("ANALYZE items")


if __name__ == "__main__":
    make_files(Path(sys.argv[1]))
    for address in sys.argv[2:]:
        fill_table(address)
