"""The page: HTML without scripts and external resources."""

from __future__ import annotations

from html import escape

from comparison import Numbers

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
th, td { text-align: left; padding: .45rem .8rem; border-bottom: 1px solid #dde3ea }
td.number { text-align: right; font-variant-numeric: tabular-nums; width: 9rem }
th.number { text-align: right }
.bar { height: .8rem; border-radius: .2rem; background: #c4566a }
.bar.cached { background: #2f7d6d }
.saved { font-size: 2.6rem; font-weight: 600; color: #2f7d6d }
button { font: inherit; padding: .5rem 1.2rem; border: 0; border-radius: .3rem; background: #24507a; color: #fff }
small { color: #56646f }
"""

FORM = '<form method="post" action="/run"><button>Run the load</button></form>'


def row(name: str, cached: str, direct: str, note: str = "") -> str:
    """Return a row of a table."""
    note = f"<br><small>{escape(note)}</small>" if note else ""
    return f'<tr><td>{escape(name)}{note}</td><td class="number">{cached}</td><td class="number">{direct}</td></tr>'


def bar(name: str, value: float, most: float, kind: str) -> str:
    """Return a bar of a chart."""
    width = 100 * value / most if most else 0
    shown = f'<div class="bar {kind}" style="width: {width:.1f}%"></div>'
    return f'<tr><td style="width: 11rem">{name}</td><td>{shown}</td><td class="number">{value:.2f} s</td></tr>'


def load_table(numbers: Numbers) -> str:
    """Return the numbers under the load."""
    cached, direct = numbers.cached, numbers.direct
    rows = [
        row("Reads", f"{cached.reads:,}", f"{direct.reads:,}", "the same reads and price changes on both sides"),
        row("Queries of the database", f"{cached.queries:,}", f"{direct.queries:,}"),
        row("Hit rate", f"{cached.hit_rate:.1%}", "0.0%", "reads that needed no query"),
        row("Hits of the near cache", f"{cached.near_hits:,}", "–", "answered in the process, without a call"),
        row("Median read", f"{cached.median_ms:.2f} ms", f"{direct.median_ms:.2f} ms"),
        row(
            "Slowest read",
            f"{cached.slowest_ms:.1f} ms",
            f"{direct.slowest_ms:.1f} ms",
            "a load during a change is repeated",
        ),
    ]
    return table(rows)


def table(rows: list[str]) -> str:
    """Return a table with both sides."""
    head = '<tr><th></th><th class="number">with cache</th><th class="number">without</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def features_table(numbers: Numbers) -> str:
    """Return the numbers of the single features."""
    rows = []
    if numbers.stampede:
        cached, direct = numbers.stampede
        rows.append(row("Stampede: queries", str(cached), str(direct), "20 callers read one absent product at a time"))
    if numbers.stale:
        fast, slow = numbers.stale
        note = "the old product at once; the new one was loaded in the background"
        rows.append(row("Stale-while-revalidate: time of a read", f"{fast:.2f} ms", f"{slow:.2f} ms", note))
    if numbers.tagged is not None:
        note = "a change of the supplier removed its products from the cache, by their tag"
        rows.append(row("Tags: products removed by one call", str(numbers.tagged), "–", note))
    return table(rows)


def render(numbers: Numbers) -> str:
    """Return the page."""
    body = "<p>No load has run yet.</p>"
    if numbers.cached.reads:
        most = max(numbers.cached.origin_seconds, numbers.direct.origin_seconds)
        body = (
            f'<p><span class="saved">{numbers.origin_seconds_saved:.1f} s</span> of database time saved</p><table>'
            + bar("with cache", numbers.cached.origin_seconds, most, "cached")
            + bar("without", numbers.direct.origin_seconds, most, "direct")
            + f"</table><h2>Under load</h2>{load_table(numbers)}<h2>Features</h2>{features_table(numbers)}"
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Terrace: a slow database</title>'
        f"<style>{STYLE}</style><h1>A slow database, with a cache and without</h1>{body}{FORM}</html>"
    )
