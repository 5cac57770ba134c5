"""A report as headless Chromium shows it, on a phone and on a desk, in light and in dark."""

import browser
import pytest
from reports.run_folders import VGG16, made_up_rows, write_profile, write_run

from fedn_partial.client.report.page import write_report

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")

LONG = "a-name-that-goes-on-and-on-" * 8
SCRIPT = "<script>window.ran = 1</script><img src=http://127.0.0.1:9/x.png onerror='window.ran=1'>"


def cells():
    for flavour, cpus in (("ssc.xsmall", 1), ("ssc.small", 1), (LONG, 2)):
        for layers in (4, 7, 10, 14):
            cell = {"flavour": flavour, "layers": layers, "cpus": cpus, "memory_mib": 2048, "total_layers": 14}
            cost = {"seconds": 1000.0 + layers, "cpu_percent": 99.0, "ram_mb": 1234.5, "ram_percent": 99.9}
            yield cell | ({"killed": f"{LONG} {SCRIPT}"} if layers == 14 else {**cost, "limited": LONG})


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    layers = dict.fromkeys(VGG16, 1000)
    rows = made_up_rows(rounds=8, clients=3)
    foreign = [{**row, "client": f"{LONG}{row['client']}{SCRIPT}"} for row in rows]
    alone = write_run(folder / "alone", rows, name="alone", layers=layers, data={"name": "digits", "clients": 3})
    broken = write_run(folder / "foreign", foreign, name=LONG + SCRIPT, layers=layers, final={"problem": LONG})
    long = write_run(folder / "long", made_up_rows(rounds=100, clients=10), name="long", layers=layers)
    empty = write_run(folder / "empty", [], name="empty", final={})
    profile = write_profile(folder / "profile", list(cells()), model={"name": "vgg16"}, refused={"ssc.large": LONG})
    of = {"alone": [alone], "several": [alone, long, broken], "empty": [empty], "profile": [profile]}
    of["all"] = [empty, profile, broken]
    for name, folders in of.items():
        write_report(folders, folder / f"{name}.html")
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(("name", "charts"), {"alone": 10, "several": 14, "empty": 0, "profile": 3, "all": 13}.items())
def test_nothing_sticks_out_runs_or_asks_the_network(pages, name, charts, width, dark):
    found = browser.look(pages / f"{name}.html", width, dark)
    assert (found["width"], found["dark"]) == (width, dark)
    assert found["scroll_width"] <= width and found["out"] == []
    assert (found["ran"], found["scripts"], found["requests"], found["console"]) == (None, 0, [], [])
    assert found["background"] == ("rgb(19, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert found["charts"] == charts and found["bare_charts"] == 0
    assert found["lowest_text"] is None or found["lowest_text"] >= 9  # pixels of a chart's smallest line of text
    assert found["heads_without_scope"] == 0 and found["doubled_ids"] == []


def test_a_page_that_is_too_wide_runs_a_script_and_asks_the_network_is_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<p style='width: 900px'>wide</p><script>window.ran = 7; console.error('oops')</script>"
        "<img src='http://127.0.0.1:9/x.png'><table><th>x</th></table><i id=a></i><i id=a></i>"
    )
    found = browser.look(page, 360)
    assert found["scroll_width"] > 360 and found["out"] == ["P wide"]
    assert (found["ran"], found["scripts"]) == ("7", 1) and found["requests"] == ["http://127.0.0.1:9/x.png"]
    assert any("oops" in line for line in found["console"])
    assert found["heads_without_scope"] == 1 and found["doubled_ids"] == ["a"]


def test_a_picture_is_as_wide_as_the_phone(pages, tmp_path):
    from PIL import Image

    parts = [(50, 350), (500, 800)]
    for width, scale in ((360, 2), (800, 1)):
        browser.picture(pages / "alone.html", tmp_path / "page.png", width, dark=True, parts=parts, scale=scale)
        with Image.open(tmp_path / "page.png") as image:
            assert image.size == (width * scale, 600 * scale)
            assert image.convert("RGB").getpixel((3, 3)) == (19, 23, 26)  # the page's background in the dark
