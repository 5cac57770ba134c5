"""Looks at a page in headless Chromium, at the width of a phone or a desk, in light or in dark.

Chromium's own window is never narrower than about 500 pixels, so the page is put into a frame of the wanted width.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb"),
)
FRAME = """<!doctype html><meta charset="utf-8"><style>html, body {{ margin: 0; background: {background} }}
iframe {{ display: block; border: 0; color-scheme: {scheme} }}</style>
<iframe id="page" width="{width}" height="{height}" srcdoc="{page}"></iframe><script>{script}</script>"""

# What is found is written into the document, where --dump-dom shows it.
LOOK = """
const frame = document.getElementById("page");
frame.addEventListener("load", () => {
  const inside = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const scrolls = element => ["auto", "scroll"].includes(inside.getComputedStyle(element).overflowX);
  const boxed = element => {
    while ((element = element.parentElement)) if (scrolls(element)) return true;
    return false;
  };
  const out = [...page.body.querySelectorAll("*")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > root.clientWidth + 1 || box.left < -1) && !boxed(element);
  }).map(element => `${element.tagName} ${(element.textContent || "").trim().slice(0, 60)}`);
  const small = [...page.querySelectorAll("svg.chart text")].map(text => text.getBoundingClientRect().height);
  const style = inside.getComputedStyle(page.body);
  const answer = {
    width: inside.innerWidth, height: root.scrollHeight, scroll_width: root.scrollWidth, out,
    dark: inside.matchMedia("(prefers-color-scheme: dark)").matches,
    background: style.backgroundColor, ink: style.color,
    requests: inside.performance.getEntriesByType("resource").map(entry => entry.name),
    sections: Object.fromEntries([...page.querySelectorAll("header, section")].map(section => {
      const box = section.getBoundingClientRect();
      const figure = section.querySelector("figure");
      return [section.id || "header", [box.top, box.bottom, figure ? figure.getBoundingClientRect().top : box.bottom]];
    })),
    charts: page.querySelectorAll("svg.chart").length, lowest_text: small.length ? Math.min(...small) : null,
    bare_charts: [...page.querySelectorAll("svg.chart")].filter(chart => !chart.getAttribute("aria-label")).length,
    scripts: page.scripts.length, ran: inside.ran === undefined ? null : String(inside.ran),
    heads_without_scope: [...page.querySelectorAll("th")].filter(head => !head.getAttribute("scope")).length,
    doubled_ids: [...page.querySelectorAll("[id]")].map(one => one.id).filter((id, i, all) => all.indexOf(id) !== i),
  };
  const place = document.createElement("pre");
  place.id = "found"; place.textContent = JSON.stringify(answer);
  document.body.append(place);
});
"""


def look(page: Path, width: int, dark: bool = False) -> dict:
    """Open `page` in a frame of `width` CSS pixels and return what LOOK finds there."""
    with tempfile.TemporaryDirectory() as folder:
        frame = _frame(Path(folder), page, width, 900, dark, LOOK)
        done = _chromium(folder, "--virtual-time-budget=5000", "--window-size=1400,900", "--dump-dom", frame.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    if not found:
        raise RuntimeError(f"Chromium found nothing: {done.stderr[-2000:]}")
    return json.loads(html.unescape(found[1])) | {"console": re.findall(r"CONSOLE.*", done.stderr)}


def picture(page: Path, target: Path, width: int, dark: bool = False, parts=None, scale: float = 2) -> None:
    """Write a picture (.png) of `page` to `target`: all of it, or parts [(top, bottom)] in CSS pixels, glued."""
    from PIL import Image  # comes with matplotlib

    height = look(page, width, dark)["height"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        frame = _frame(Path(folder), page, width, height, dark, "")
        whole = Path(folder) / "whole.png"
        _chromium(
            *(folder, f"--window-size={max(width, 500)},{height}", f"--force-device-scale-factor={scale}"),
            *(f"--screenshot={whole}", "--virtual-time-budget=5000", frame.as_uri()),
        )
        with Image.open(whole) as image:
            right = round(width * scale)
            parts = [(round(top * scale), round(bottom * scale)) for top, bottom in parts or [(0, height)]]
            glued = Image.new("RGB", (right, sum(bottom - top for top, bottom in parts)))
            place = 0
            for top, bottom in parts:
                glued.paste(image.convert("RGB").crop((0, top, right, bottom)), (0, place))
                place += bottom - top
            _with_palette(glued).save(target, optimize=True)


def _with_palette(image):
    """Return an image in its 256 most frequent colours, a third of the size: the others are steps at edges.

    Pillow's own way moves also the frequent ones a little, such as the page's background.
    """
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    codes, places, counts = np.unique(
        (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2], return_inverse=True, return_counts=True
    )
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    kept = colours[np.argsort(-counts)[:256]]
    nearest = ((colours[:, None] - kept[None]) ** 2).sum(axis=2).argmin(axis=1)
    small = Image.fromarray(nearest[places].reshape(pixels.shape[:2]).astype(np.uint8))
    small.putpalette(kept.astype(np.uint8).tobytes())
    return small


def _frame(folder: Path, page: Path, width: int, height: int, dark: bool, script: str) -> Path:
    scheme, background = ("dark", "#13171a") if dark else ("light", "#ffffff")
    text = html.escape(page.read_text(encoding="utf-8"))
    path = folder / "frame.html"
    path.write_text(
        FRAME.format(width=width, height=height, page=text, script=script, scheme=scheme, background=background),
        encoding="utf-8",
    )
    return path


def _chromium(folder: str, *options: str) -> subprocess.CompletedProcess:
    as_root = ["--no-sandbox"] if os.getuid() == 0 else []
    command = [CHROMIUM, *FLAGS, *as_root, f"--user-data-dir={folder}/profile", "--enable-logging=stderr", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
