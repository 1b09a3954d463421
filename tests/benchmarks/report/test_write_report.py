"""A report from records: its numbers, what it never hides, and that it repeats byte for byte."""

from __future__ import annotations

import html
import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import every_table, make_record, write_quick

from benchmarks.errors import StoreError
from benchmarks.report import ReportSummary, tables, write_report
from benchmarks.report.groups import summarise
from benchmarks.report.records import gather
from benchmarks.report.table import as_html, as_markdown
from benchmarks.store import Record, Store

FIGURES = re.compile(r'<figure id="figure-([^"]*)">')
T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def store_of(directory: Path, *records: Record) -> Store:
    store = Store(directory)
    for record in records:
        store.write(record)
    return store


def scores(flow: str, *nll: float, dataset: str = "8gaussians", **more: object) -> list[Record]:
    return [
        make_record(
            flow,
            dataset,
            seed,
            measures={"nll_nats": value, "nll_nats_stderr": 0.5, "gaussian_nll_nats": 4.0},
            **more,  # type: ignore[arg-type]
        )
        for seed, value in enumerate(nll)
    ]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_quick(tmp_path_factory.mktemp("quick") / "run", seeds=2)


@pytest.fixture(scope="module")
def written(
    quick: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Path, ReportSummary]:
    out = tmp_path_factory.mktemp("report")
    return quick, out, write_report([quick], out)


# -- numbers ------------------------------------------------------------------------------------


def test_comparison_by_hand(tmp_path: Path) -> None:
    records = [
        *scores("ffjord", 2.9, 3.0, 3.4),
        *scores("maf", 3.0, 3.05, 3.2),
        *scores("glow", 4.0, 4.1, 4.5),
    ]
    (table,) = tables.comparison(gather([store_of(tmp_path, *records)]))
    data = table.data.set_index("flow")
    assert data.loc["ffjord", "nll_nats"] == pytest.approx(3.1)
    deviation = np.std([2.9, 3.0, 3.4], ddof=1)
    assert data.loc["ffjord", "nll_nats_half_width"] == pytest.approx(
        T_2 * deviation / math.sqrt(3)
    )
    # maf has the lowest mean, 3.0833; ffjord's paired differences (-0.1, -0.05, 0.2) hold zero;
    # glow's (1, 1.05, 1.3) do not.
    assert data["best"].to_dict() == {"ffjord": True, "glow": False, "maf": True}
    assert table.columns == ["flow", "learning rate", "8gaussians"]
    rows = {row[0].text: row[2] for row in table.sections[0].rows}
    assert [name for name, entry in rows.items() if entry.bold] == ["ffjord", "maf"]
    ours = rows["ffjord"]
    assert (ours.text, ours.over, ours.also_over) == ("3.100", "seeds", "points")
    assert ours.plus_minus == f"{T_2 * deviation / math.sqrt(3):.3f}"
    # 1.96 times the standard error of half a nat that each record states.
    assert ours.also == "0.980"
    shown = as_markdown(table)
    assert f"**3.100 ± {ours.plus_minus}** (seeds) ± 0.980 (points)" in shown
    assert any("cannot be told from it" in note for note in table.notes)
    assert any("All seeds share one split" in note for note in table.notes)


def test_errors_over_test_points_never_enter_an_interval(tmp_path: Path) -> None:
    store = store_of(tmp_path, *scores("maf", 3.0), *scores("glow", 3.1))
    (table,) = tables.comparison(gather([store]))
    for row in table.sections[0].rows:
        assert (row[2].plus_minus, row[2].over, row[2].also) == ("", "", "0.980")
    assert not any(row[2].bold for row in table.sections[0].rows)
    assert table.data["nll_nats_half_width"].isna().all()
    assert (table.data["nll_nats_stderr_over_test_points_mean"] == 0.5).all()
    assert any("one seed" in note for note in table.notes)


def test_published_numbers_say_what_their_errors_are_over(tmp_path: Path) -> None:
    label = {"dataset_label": "power[rows=20000]", "dataset_options": {"rows": 20000}}
    records = [
        *scores("ffjord", 0.1, 0.2, dataset="power", **label),
        *scores("maf", 0.3, 0.4, dataset="power", **label),
    ]
    (table,) = tables.comparison(gather([store_of(tmp_path, *records)]))
    published = {row[0].text: row[2] for row in table.sections[-1].rows}
    ours = published["FFJORD (Grathwohl et al. 2018)"]
    assert (ours.text, ours.plus_minus, ours.over) == ("-0.46", "0.01", "runs")
    assert published["MAF (10) (Papamakarios et al. 2017)"].over == "test points"
    assert not any(entry.bold for entry in published.values())
    # A flow that did not run has no published row beside ours.
    assert not any("Glow" in name for name in published)
    said = " ".join(table.notes)
    assert "whole training set" in said
    assert "power[rows=20000], steps 200, batch size 256" in said


def test_gaussian_baseline_of_images_is_in_bits(tmp_path: Path) -> None:
    measures = {"nll_nats": 90.0, "bits_per_dim": 90 / 64 / math.log(2), "gaussian_nll_nats": 118.0}
    store = store_of(tmp_path, make_record("maf", "optdigits", measures=measures))
    (table,) = tables.comparison(gather([store]))
    (reference,) = table.sections[1].rows
    assert float(reference[2].text) == pytest.approx(118 / 64 / math.log(2), abs=6e-4)


def test_seeds_of_two_measure_lists_count_once(tmp_path: Path) -> None:
    cells = gather([store_of(tmp_path, *scores("maf", 1.0, 2.0, 3.0))]).cells
    twice = pd.concat([cells, cells[cells["seed"] == 0]])
    row = summarise(twice, ["flow"], ["nll_nats"]).iloc[0]
    assert (row["nll_nats"], row["seeds"]) == (2.0, 3)


# -- what may not be averaged -----------------------------------------------------------------


def test_budgets_and_devices_are_never_averaged_together(tmp_path: Path) -> None:
    records = [
        *scores("maf", 1.0, 1.2),
        *scores("maf", 3.0, 3.2, steps=500),
        *scores("glow", 2.0, 2.2),
        *scores("glow", 5.0, 5.2, steps=500, device="cuda"),
    ]
    (table,) = tables.comparison(gather([store_of(tmp_path, *records)]))
    rows = {row[0].text: row[2] for row in table.sections[0].rows}
    assert {name: entry.text for name, entry in rows.items()} == {
        "maf · steps 200, device cpu": "1.100",
        "maf · steps 500, device cpu": "3.100",
        "glow · steps 200, device cpu": "2.100",
        "glow · steps 500, device cuda": "5.100",
    }
    # The best are chosen among rows of one rule, where the seeds tell them apart.
    assert [name for name, entry in rows.items() if entry.bold] == ["maf · steps 200, device cpu"]


def test_results_on_data_that_have_changed_are_kept_apart(tmp_path: Path) -> None:
    before = scores("maf", 1.0, 1.2)
    after = scores("maf", 3.0, 3.2, steps=200)
    for number, record in enumerate((*before, *after)):
        digest = "ab" if number < 2 else "cd"
        record.data_hashes = {"train": digest, "validation": digest, "test": digest}
    # The same but for the seeds, without which they would be the same cells.
    for record in after:
        record.cell = record.cell.model_copy(update={"seed": record.cell.seed + 2})
        vars(record.cell).pop("key", None)
        vars(record.cell).pop("identity", None)
        record.key = record.cell.key
    stores = [store_of(tmp_path / "a", *before), store_of(tmp_path / "b", *after)]
    gathered = gather(stores)
    (table,) = tables.comparison(gathered)
    shown = {row[0].text: row[2].text for row in table.sections[0].rows}
    assert sorted(shown.values()) == ["1.100", "3.100"]
    assert all(name.startswith("maf · data ") for name in shown)
    assert any("data have changed" in note for note in gathered.notes)


def test_a_budget_that_differs_between_data_sets_alone_needs_no_label(tmp_path: Path) -> None:
    records = [*scores("maf", 1.0), *scores("maf", 2.0, dataset="checkerboard", steps=500)]
    (table,) = tables.comparison(gather([store_of(tmp_path, *records)]))
    (row,) = table.sections[0].rows
    assert [entry.text for entry in row] == ["maf", "0.001", "1.000", "2.000"]


def test_shared_times_are_left_out_and_said(tmp_path: Path) -> None:
    def timed(flow: str, seed: int, seconds: float, shared: bool) -> Record:
        measures = {
            "train_step_seconds": seconds,
            "nfe_train_forward": 8,
            "cost_shared": shared,
        }
        return make_record(flow, seed=seed, measures=measures)

    store = store_of(
        tmp_path,
        timed("maf", 0, 0.010, False),
        timed("maf", 1, 9.0, True),
        timed("glow", 0, 9.0, True),
    )
    records = gather([store])
    (table,) = tables.cost(records)
    data = table.data.set_index("flow")
    assert data.loc["maf", "train_step_seconds"] == pytest.approx(0.010)
    assert math.isnan(data.loc["glow", "train_step_seconds"])
    assert data.loc["glow", "nfe_train_forward"] == 8  # Counts do not depend on the company.
    assert any("2 of 3 cells" in note for note in table.notes)
    assert any("2 cells" in note for note in records.notes)


# -- sweeps -------------------------------------------------------------------------------------


def test_sweeps(quick: Store) -> None:
    records = gather([quick])
    (dimension,) = tables.dimension(records)
    assert [s.title for s in dimension.sections] == ["D = 2", "D = 8", "D = 32"]
    # Variants that ran in one dimension only are no sweep over it.
    assert set(dimension.data["flow"]) == {"ffjord", "realnvp", "glow", "maf"}
    (bottleneck,) = tables.bottleneck(records)
    widths = [(row[0].text, row[1].text) for row in bottleneck.sections[0].rows]
    assert widths == [
        ("gaussian", "2"),
        ("gaussian", "8"),
        ("gaussian", "32"),
        ("gaussian", "full"),
        ("rademacher", "2"),
        ("rademacher", "8"),
        ("rademacher", "32"),
        ("rademacher", "full"),
    ]


# -- failures -----------------------------------------------------------------------------------


def test_failures_are_shown_everywhere(tmp_path: Path) -> None:
    reason = "loss_is NaN <after> 50% & [more]"
    store = store_of(
        tmp_path / "run",
        *scores("maf", 1.0, 1.1),
        make_record("maf", seed=2, status="diverged", reason=reason),
        make_record("glow", seed=0, status="oom", reason="needs 80 GiB"),
        make_record("realnvp", "checkerboard", status="timeout", reason="after 60 s"),
    )
    records = gather([store])
    (table,) = tables.comparison(records)
    rows = {row[0].text: row[1:] for row in table.sections[0].rows}
    assert rows["maf"][1].remark == "2/3 seeds"
    assert rows["glow"][1].text == "oom"
    assert rows["realnvp"][2].text == "timeout"
    (failures,) = tables.failures(records)
    assert set(failures.data["reason"]) == {reason, "needs 80 GiB", "after 60 s"}
    summary = write_report([store], tmp_path / "out")
    assert (summary.cells, summary.without_result) == (5, 3)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "loss_is NaN &lt;after&gt; 50% &amp; [more]" in page


def test_all_cells_failed(tmp_path: Path) -> None:
    records = [make_record(flow, status="crashed", reason="killed") for flow in ("maf", "glow")]
    summary = write_report([store_of(tmp_path / "run", *records)], tmp_path / "out")
    assert summary.without_result == summary.cells == 2
    assert "<svg" not in summary.paths[0].read_text()
    assert any(
        "no record has what this figure takes: Validation NLL" in note for note in summary.notes
    )


def test_no_failures_is_said(quick: Store) -> None:
    (table,) = tables.failures(gather([quick]))
    assert "none" in table.title


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no records to report on in .*nothing"):
        write_report([Store(tmp_path / "nothing")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_foreign_files_are_named(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run", *scores("maf", 1.0))
    (tmp_path / "run/cells/maf/8gaussians/broken.json").write_text("{")
    summary = write_report([store], tmp_path / "out")
    assert any("cells/maf/8gaussians/broken.json" in note for note in summary.notes)
    assert summary.cells == 1


def test_missing_measures_and_one_seed(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run", make_record("someone/else", measures={"parameters": 7}))
    summary = write_report([store], tmp_path / "out")
    assert summary.without_result == 0
    assert "single seed" in (tmp_path / "out" / "index.html").read_text()


def test_a_cell_in_two_folders_counts_once_and_the_good_one_wins(tmp_path: Path) -> None:
    bad = store_of(tmp_path / "a", make_record("maf", status="crashed", reason="killed"))
    good = store_of(tmp_path / "b", *scores("maf", 1.5))
    for stores in ([bad, good], [good, bad]):
        records = gather(stores)
        assert records.cells["status"].to_list() == ["ok"]
        assert records.cells["nll_nats"].to_list() == [1.5]
        assert set(map(id, records.store_of.values())) == {id(good)}


def test_infinite_numbers_stop_no_figure(tmp_path: Path) -> None:
    record = scores("maf", 3.0)[0]
    store = store_of(tmp_path / "run", record)
    rows = [
        '{"step": 10, "seconds": 1.0, "validation_nll_nats": Infinity}',
        '{"step": 20, "seconds": 2.0, "validation_nll_nats": NaN}',
        '{"step": 30, "seconds": 3.0, "validation_nll_nats": 4.0}',
        '{"step": 40, "seconds": 4.0, "validation_nll_nats": 3.0}',
        '{"step": 50, "seco',
    ]
    store.path(record.cell, ".curve.jsonl").write_text("\n".join(rows))
    grid = np.linspace(-1, 1, 4)
    field = np.array([[np.nan, np.inf, -np.inf, 0.0]] * 4)
    samples = np.array([[np.nan, 0.0], [np.inf, 1.0], [0.5, 0.5]])
    arrays = {"grid_x": grid, "grid_y": grid, "log_density": field, "samples": samples}
    store.write_arrays(record.cell, arrays)
    page = write_report([store], tmp_path / "out").paths[0].read_text()
    assert {"density-8gaussians", "nll-against-time"} <= set(FIGURES.findall(page))


# -- names and looks ----------------------------------------------------------------------------


def test_options_that_all_cells_share_are_left_out_and_explained(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        *scores("ffjord", 1.0, flow_label="ffjord[atol=0.0001]"),
        *scores(
            "ffjord",
            2.0,
            flow_options={"bottleneck": 2},
            flow_label="ffjord[atol=0.0001,bottleneck=2]",
        ),
    )
    (table,) = tables.comparison(gather([store]))
    assert [row[0].text for row in table.sections[0].rows] == ["ffjord", "ffjord[bottleneck=2]"]
    assert "Every ffjord here has atol=0.0001." in table.notes
    assert "ffjord[atol=0.0001,bottleneck=2]" in set(table.data["flow"])


# -- the whole ----------------------------------------------------------------------------------


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "br", "link", "wbr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_is_whole_and_needs_no_network(
    written: tuple[Store, Path, ReportSummary],
) -> None:
    _, out, summary = written
    page = (out / "index.html").read_text()
    parser = _Links()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"https?://", " ".join(parser.found))
    # No script from elsewhere either.
    assert "<script src" not in page
    for address in parser.found:
        if address.startswith("#"):
            assert re.search(rf'id="?{re.escape(address[1:])}[" >]', page)
        elif not address.startswith("data:"):
            assert (out / address).is_file()
    files = {path for path in out.rglob("*") if path.is_file()}
    assert files == set(summary.paths)
    names = FIGURES.findall(page)
    assert len(names) == len(set(names)) == page.count("<svg ")
    assert {
        "nll-against-time",
        "density-8gaussians",
        "density-checkerboard",
        "dimension",
        "deviation-against-dimension",
        "deviation-against-bottleneck",
        "quality-against-training-cost",
        "nfe-over-training",
    } <= set(names)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

MEASURE = """<script>
const lost = [...document.querySelectorAll(".scroll")].filter(
  (box) => box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "auto");
const cut = [...document.querySelectorAll("td, th")].filter(
  (cell) => cell.scrollWidth > cell.clientWidth + 1);
const box = document.getElementById("filter").getBoundingClientRect();
const away = getComputedStyle(document.querySelector("nav")).display !== "none"
  && !(box.width > 60 && box.left >= 0 && box.right <= innerWidth);
const found = [document.scrollingElement.scrollWidth, lost.length, cut.length + away];
parent.document.body.dataset.found = found;
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("medium", "width"), [("phone", 400), ("screen", 1600), ("paper", 1039)])
def test_tables_are_whole_on_every_medium(
    written: tuple[Store, Path, ReportSummary], tmp_path: Path, medium: str, width: int
) -> None:
    page = (written[1] / "index.html").read_text().replace("</body>", MEASURE)
    if medium == "paper":
        # A4 across, less its margins: what the rules for print make of that width. Paper has no
        # scroll bars, so that nothing may be wider than it.
        assert "@media print {" in page
        page = page.replace("@media print {", "@media all {")
    # In a frame: a window has a least width, above that of a phone.
    frame = f'<iframe width="{width}" height="900" frameborder="0" srcdoc="{html.escape(page)}">'
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{frame}</iframe></body>")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1700,1000"]
    command += ["--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = re.findall(r'data-found="(\d+),(\d+),(\d+)"', done.stdout)
    # The page itself never moves sideways; what is wider than it scrolls in a box of its own. No
    # cell is cut, and the filter is within sight.
    assert tuple(map(int, found)) == (width, 0, 0)


WATCH = """<script>addEventListener("error", (event) => {
  document.body.dataset.error = event.message;
});</script></head>"""
CLICK = """<script>
const head = document.querySelector("table.sortable thead th.number");
head.click();
setTimeout(() => head.click(), 50);
</script></body>"""


def dumped(page: str, tmp_path: Path, address: str = "") -> str:
    """A page as it stands in a browser after its scripts have run."""
    (tmp_path / "page.html").write_text(page.replace("</head>", WATCH, 1))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--dump-dom", (tmp_path / "page.html").as_uri() + address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "data-error" not in done.stdout
    return done.stdout


def rows_shown(page: str) -> list[str]:
    bodies = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    rows = [row for body in bodies for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    return [row for row in rows if not row.startswith('<tr hidden=""')]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_filter_in_the_address_leaves_the_rows_with_its_words(
    written: tuple[Store, Path, ReportSummary], tmp_path: Path
) -> None:
    page = (written[1] / "index.html").read_text()
    whole = dumped(page, tmp_path)
    found = dumped(page, tmp_path, "#settings&filter=MAF+power")
    shown = rows_shown(found)
    assert 0 < len(shown) < len(rows_shown(whole))
    assert all("maf" in row.lower() for row in shown)
    assert f">{len(shown)} of {len(rows_shown(whole))} rows<" in found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_click_on_a_heading_sorts_each_section_by_its_numbers(
    written: tuple[Store, Path, ReportSummary], tmp_path: Path
) -> None:
    page = (written[1] / "index.html").read_text()
    found = dumped(page.replace("</body>", CLICK), tmp_path)
    table = found[found.index("<table") : found.index("</table>")]
    assert 'aria-sort="descending"' in table
    bodies = re.findall(r"<tbody>(.*?)</tbody>", table, re.DOTALL)
    assert bodies
    for body in bodies:
        rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        first = [re.findall(r'data-sort="([^"]*)"', row)[0] for row in rows]
        column = [float(value) for value in first if value]
        assert column == sorted(column, reverse=True)
    assert any(body.count("<tr") > 1 for body in bodies)


USE = """<script>
const svg = document.querySelector("#answer svg");
const text = svg.querySelector('[role="button"]'), series = text.dataset.series;
const parts = [...svg.querySelectorAll(`.series[data-series="${series}"]`)];
const seen = () => parts.filter((part) => getComputedStyle(part).visibility === "visible").length;
svg.scrollIntoView({ behavior: "instant", block: "center", inline: "start" });
const mark = svg.querySelector(`.series[data-series="${series}"] .named use`);
const place = mark.getBoundingClientRect();
const hit = document.elementFromPoint(
  (place.left + place.right) / 2, (place.top + place.bottom) / 2);
const tip = document.getElementById("tip");
const found = [parts.length, seen(), hit === mark, tip.hidden];
mark.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
found.push(tip.hidden, tip.textContent);
document.body.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
found.push(tip.hidden);
text.focus();
text.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
found.push(document.activeElement === text, text.getAttribute("aria-pressed"), seen());
svg.querySelector(`.entry[data-series="${series}"]`).dispatchEvent(
  new MouseEvent("click", { bubbles: true }));
found.push(text.getAttribute("aria-pressed"), seen(), svg.getAttribute("role"));
document.body.dataset.used = JSON.stringify(found);
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_mark_is_named_and_a_legend_entry_hides_its_contestant(
    written: tuple[Store, Path, ReportSummary], tmp_path: Path
) -> None:
    page = (written[1] / "index.html").read_text().replace("</body>", USE)
    (used,) = re.findall(r'data-used="([^"]*)"', dumped(page, tmp_path))
    parts, before, hit, still, hidden, named, again, *toggled = json.loads(html.unescape(used))
    assert parts == before > 3
    assert (hit, still, hidden, again) == (True, True, False, True)
    assert re.match(r"ffjord\ntime of a training step, times \w+'s = [\d.]+\ntest NLL", named)
    assert toggled == [True, "false", 0, "true", parts, "group"]


def test_a_failed_cell_is_grey_and_says_why(tmp_path: Path) -> None:
    records = [
        *scores("maf", 1.0, 1.1),
        make_record("glow", status="diverged", reason="the loss was NaN at step 7"),
    ]
    (table,) = tables.comparison(gather([store_of(tmp_path, *records)]))
    page = as_html(table)
    (cell,) = re.findall(r'<td class="number failed" data-sort="">(.*?)</td>', page)
    assert cell == 'diverged <span class="why">the loss was NaN at step 7</span>'


@pytest.mark.slow
def test_a_copy_elsewhere_gives_the_same_bytes(
    written: tuple[Store, Path, ReportSummary], tmp_path: Path
) -> None:
    store, out, summary = written
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(store.directory, copy)
    again = write_report([Store(copy)], tmp_path / "again")
    assert [p.relative_to(tmp_path / "again") for p in again.paths] == [
        p.relative_to(out) for p in summary.paths
    ]
    for first, second in zip(summary.paths, again.paths, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        if first.suffix in (".md", ".csv", ".tex", ".html"):
            assert str(store.directory) not in first.read_text()


def test_tables_do_not_depend_on_the_order_of_the_folders(quick: Store, tmp_path: Path) -> None:
    more = store_of(tmp_path, *scores("nice", 3.0, 3.1))
    first, second = every_table(gather([quick, more])), every_table(gather([more, quick]))
    for one, other in zip(first, second, strict=True):
        assert one.sections == other.sections
        assert one.data.to_csv() == other.data.to_csv()
