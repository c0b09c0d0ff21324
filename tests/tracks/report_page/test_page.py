"""The page of a planted run: whole, self-contained, and its numbers those of the scorer."""

import json
import re
from dataclasses import asdict
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
import tifffile

from eval.tables import COLUMNS
from tests.support.report_stand_ins import ODD, OPTIONS, ReportDataset, finished_run, planted_map, unfinished_run
from tracks.errors import TrackInputError
from tracks.report_page.choice import Choice
from tracks.report_page.page import PageOptions, render_page
from tracks.report_page.pictures import Photos
from tracks.report_page.record import RunRecord, unlike
from tracks.report_page.scored_run import gather
from tracks.run.scoring import LEGACY_IMAGE_SCORE, RULES, score_category
from tracks.run.store import PredictionStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(store):
    return render_page(store, Photos(ReportDataset()), OPTIONS)


@pytest.fixture(scope="module")
def tree(page):
    return ElementTree.fromstring(page)  # any name that is not escaped, any element not closed ends this


def text(node):
    return " ".join("".join(node.itertext()).split())


def table(tree, caption):
    return next(found for found in tree.iter("table") if caption in text(found.find("caption")))


def test_the_page_needs_nothing_but_itself(page, tree):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    links = [node.get(key) for node in tree.iter() for key in ("href", "src") if node.get(key)]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not list(tree.iter("script"))
    assert not [key for node in tree.iter() for key in node.attrib if key.startswith("on")]
    assert "default-src 'none'" in tree.find("head/meta[@http-equiv]").get("content")


def test_every_link_has_its_goal_and_no_id_stands_twice(tree):
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert {node.get("href")[1:] for node in tree.iter() if (node.get("href") or "").startswith("#")} <= set(ids)
    labels = {node.get("aria-labelledby") for node in tree.iter() if node.get("aria-labelledby")}
    assert labels <= set(ids)


def test_odd_names_are_shown_as_they_are(tree):
    headings = [text(node) for node in tree.iter("h3")]
    assert ODD in headings
    assert ODD in [text(node) for node in table(tree, "recall by kind").iter("th")]
    assert not list(tree.iter("b"))


def test_it_can_be_read_without_seeing_it(tree):
    assert tree.get("lang") == "en"
    assert [node.tag for node in tree.iter("h1")] == ["h1"]
    assert not [node for node in tree.iter("button") if not (node.get("aria-label") or node.text)]
    levels = [int(node.tag[1]) for node in tree.iter() if re.fullmatch(r"h\d", node.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(node.get("role") == "img" and node.get("aria-label") for node in tree.iter("svg"))
    assert all(node.get("scope") in ("row", "col", "colgroup") for node in tree.iter("th"))
    assert all(node.find("caption") is not None for node in tree.iter("table"))


def test_what_was_run_stands_at_the_top(tree):
    assert text(tree.find(".//h1")) == "Few-shot, 2 shots: m on fake"
    facts = text(tree.find(".//header/dl"))
    for said in (
        "model" + "m",
        "weights" + "w",
        "data" + "fake",
        "shots" + "2",
        "seed" + "3",
        "20 images, 5 categories",
    ):
        assert said in facts


def test_the_table_holds_the_scorers_numbers_floors_included(store, tree):
    metrics = score_category(None, "bolt", store)
    rows = list(table(tree, "Results").iter("tr"))
    cells = next(row for row in rows if text(row).startswith("bolt"))
    shown = [text(cell) for cell in cells.findall("td")]
    assert shown == [f"{100 * metrics[metric]:.1f}" for metric in COLUMNS] + ["7", "3"]
    widths = [int(cell.get("colspan", 1)) for cell in rows[0].findall("th")]
    assert sum(widths) == len(rows[1].findall("th")) + 1 == len(shown) + 1


def test_a_blank_has_its_reason_and_is_left_out_of_the_mean(store, tree):
    results = table(tree, "Results")
    row = next(row for row in results.iter("tr") if text(row).startswith("good only"))
    assert text(row.find("td")).startswith("—")
    notes = {text(node) for node in tree.iter("li")}
    assert "no anomalous image among 3" in notes
    assert any("3 more with neither label nor mask" in note for note in notes)
    mean = next(row for row in results.iter("tr") if text(row).startswith("mean"))
    both = [score_category(None, name, store)["auroc_cls"] for name in ("bolt", ODD)]
    assert text(mean.find("td")) == f"{50 * sum(both):.1f}"
    assert re.search(r"AUROC cls, [^:]*F1 harmonic: mean over 2 of 5 categories\.", "".join(tree.itertext()))


def test_every_key_of_the_protocol_is_shown(store, tree):
    shown = {
        text(row.find("th")): text(row.find("td"))
        for row in table(tree, "The label").iter("tr")
        if row.find("td") is not None
    }
    assert shown == {**store.settings["protocol"], **RULES}


def test_the_cost_is_what_the_results_say(tree):
    shown = text(table(tree, "What the run cost"))
    for said in ("250.0 ms", "5.0 s", "321 MB"):
        assert said in shown


def section(tree, category):
    return next(
        node for node in tree.iter("section") if node.find("h3") is not None and text(node.find("h3")) == category
    )


def test_the_planted_miss_comes_first(tree):
    groups = section(tree, "bolt").findall("div[@class='groups']/div")
    assert [text(group.find("h4")) for group in groups] == ["Worst misses", "Worst false alarms", "Clearest finds"]
    first = groups[0].find("figure/figcaption")
    assert text(first.find("strong")) == f"test/{ODD}/6.png"
    assert [len(group.findall("figure")) for group in groups] == [2, 2, 1]
    assert [svg.get("class") for svg in groups[0].find("figure").iter("svg")] == ["photo", "outlines", "map"]


def test_pixel_recall_is_the_share_found_at_the_pixels_threshold(store, tree):
    threshold = score_category(None, "bolt", store)["f1_seg_threshold"]
    sample = ReportDataset().test("bolt")[6]
    found = (planted_map(sample, 6)[sample.load_mask()].astype(np.float32) >= threshold).mean()
    caption = text(section(tree, "bolt").find(".//figure/figcaption[strong]"))
    assert f"{100 * found:.1f} % of its defect pixels found" in caption


def test_a_category_without_labels_shows_its_highest_scores(tree):
    unlabelled = section(tree, "unlabelled")
    assert text(unlabelled.find("div[@class='groups']/div/h4")) == "Highest scores"
    assert "no image of this category is labelled" in text(unlabelled).lower()
    assert "holds no prediction" in text(section(tree, "never reached"))


def test_the_scale_is_shared_by_the_whole_data_set(store, page, tree):
    run = gather(store, Choice(1, 1))
    values = np.concatenate([store.read_map(row).ravel() for name in store.categories for row in store.rows(name)])
    assert run.scale.low == pytest.approx(np.quantile(values.astype(float), 0.5), abs=2e-3)
    legend = next(node for node in tree.iter("div") if node.get("class") == "scale")
    assert legend.get("aria-label") == f"Colour scale of all maps, {run.scale.low:.4g} to {run.scale.high:.4g}"
    assert len(re.findall(r"#[0-9a-f]{6}", page.partition(".scale{background")[2].partition("}")[0])) == 16


def test_the_same_run_makes_the_same_page(store, page):
    assert render_page(store, Photos(ReportDataset()), OPTIONS) == page


def test_without_photos_maps_and_masks_are_shown_and_that_is_said(store):
    page = render_page(store, Photos(None, "the folder has gone"), OPTIONS)
    tree = ElementTree.fromstring(page)
    assert "only maps and masks: the folder has gone" in text(tree.find(".//aside"))
    assert [svg.get("class") for svg in section(tree, "bolt").find(".//figure[@class='pick']").iter("svg")] == [
        "outlines",
        "map",
    ]


def test_photos_that_changed_or_broke_are_left_out_and_counted(store):
    class Changed(ReportDataset):
        def test(self, category):
            return [] if category == ODD else [Broken(sample) for sample in super().test(category)]

    class Broken:
        def __init__(self, sample):
            self.name, self.fingerprint = sample.name, "2" if sample.label else "1"

        def load_image(self):
            raise TrackInputError("expected a picture, got none")

    photos = Photos(Changed())
    render_page(store, photos, PageOptions(Choice(2, 2, hits=0), picture_side=32))
    said = "\n".join(photos.remarks)
    assert "2 of the photos to show: changed since they were predicted." in said
    assert "4 of the photos to show: no longer in the data set." in said
    assert "not readable (the first: expected a picture, got none)" in said


def test_a_run_that_was_cut_short_says_so(tmp_path):
    store = unfinished_run(tmp_path / "run", categories=["bolt"])
    tree = ElementTree.fromstring(render_page(store, Photos(None, "none"), OPTIONS))
    assert "no results.json" in text(tree.find(".//aside"))
    assert text(table(tree, "What the run cost")).count("not recorded") == 4


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """The page of a run whose results.json lost its cost, gained intervals and disagrees with the store."""
    store = finished_run(
        tmp_path_factory.mktemp("edited") / "run", seconds=None, peak_memory_mb=None,
        mean_intervals={"pro_seg": [0.1, 0.2]}, interval_level=0.9,
    )  # fmt: skip
    path = store.folder / "results.json"
    results = json.loads(path.read_text())
    results["categories"]["bolt"] |= {"auroc_cls": 0.123, "intervals": {"auroc_cls": [0.25, 0.75], "f1_cls": None}}
    results["protocol"]["mask_rule"] = "> 127"
    path.write_text(json.dumps(results))
    return ElementTree.fromstring(render_page(store, Photos(None, "none"), PageOptions(Choice(0, 0, 0))))


def test_a_cost_that_is_absent_is_said_to_be_absent(edited):
    assert text(table(edited, "What the run cost")).count("not recorded in results.json") == 3


def test_results_that_disagree_with_the_store_are_not_passed_over(edited):
    assert "bolt auroc_cls: 0.123 in results.json" in text(edited.find(".//aside"))
    assert "run.json says: > 0" in text(table(edited, "The label"))


def test_intervals_stand_below_their_number(edited):
    results = table(edited, "Results in percent, with 90 % confidence intervals")
    assert [text(node) for node in results.iter("small")] == ["25.0 to 75.0", "10.0 to 20.0"]
    assert "interval 10.0 to 20.0" in text(edited.find(".//dl[@class='headlines']"))
    assert RunRecord({}).interval("pro_seg") is RunRecord({}).interval("pro_seg", "bolt") is None


def test_a_good_run_has_nothing_to_read_first(tree):
    assert tree.find(".//aside") is None


def test_numbers_of_unlike_results_are_found():
    there = {"categories": {"a": {"x": 0.5, "y": None}, "b": {}}}
    assert unlike(there, {"a": {"x": 0.5 + 1e-9, "y": None, "new": 1.0}, "b": {}}) == []
    assert len(unlike(there, {"a": {"x": 0.6, "y": 0.1}, "c": {}})) == 3


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ({"setting": "inductive", "adapter_trained_on": "visa, fake"}, "trained on the data"),
        ({"setting": "inductive", "adapter_trained_on": "fake:target", "split": "target"}, "trained on the data"),
        ({"setting": "transductive"}, "transductive"),
        ({"setting": "inductive", "adapter_trained_on": "fake:source", "split": "target"}, ""),
    ],
)
def test_what_makes_numbers_unlike_others_is_said_first(protocol, said):
    record = RunRecord({"data": "fake", "protocol": protocol}, {"categories": {}})
    assert said in " ".join(record.cautions)
    assert bool(record.cautions) == bool(said)


def test_legacy_scores_are_ranked_as_the_results_were(tmp_path):
    store = unfinished_run(tmp_path / "run", categories=["bolt"])
    assert RunRecord(store.settings, {"protocol": {"image_score": LEGACY_IMAGE_SCORE}}).image_score == "legacy_minmax"
    assert RunRecord(store.settings, {}).image_score == "model"
    with pytest.raises(TrackInputError, match="text_score"):
        gather(store, Choice(1, 1), "legacy_minmax")


def test_maps_of_unlike_sizes_are_not_passed_over(tmp_path):
    store = unfinished_run(tmp_path / "run", categories=["bolt"])
    row = store.rows("bolt")[0]
    path = store.folder / "predictions" / "bolt.jsonl"
    line = json.dumps(
        {**asdict(row), "name": "other.png", "height": 8, "width": 9, "map_file": "predictions/bolt/o.tiff"}
    )
    path.write_text(path.read_text() + line + "\n")
    tifffile.imwrite(store.folder / "predictions/bolt/o.tiff", np.zeros((8, 9), dtype=np.float16))
    page = render_page(store, Photos(None, "none"), PageOptions(Choice(0, 0)))
    assert "Maps differ in size. bolt: 2 sizes, 8 x 9 to 32 x 32." in text(ElementTree.fromstring(page))


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"command": "predict"}')
    with pytest.raises(TrackInputError, match=r"run\.json names no categories"):
        gather(PredictionStore(tmp_path), Choice(1, 1))


def test_broken_results_are_refused_by_name(tmp_path):
    store = unfinished_run(tmp_path / "run")
    (store.folder / "results.json").write_text("{")
    with pytest.raises(TrackInputError, match=r"results\.json"):
        render_page(store, Photos(None, "none"), OPTIONS)


def test_pictures_keep_the_page_small(tmp_path):
    """Six noisy photos, the worst case of a picture, stay below 35 kB each with their maps at the default size."""

    class Noisy(ReportDataset):
        def test(self, category):
            return [Grainy(sample) for sample in super().test(category)]

    class Grainy:
        def __init__(self, sample):
            self.name, self.fingerprint, self.seed = sample.name, sample.fingerprint, sample.number

        def load_image(self):
            pixels = np.random.default_rng(self.seed).normal(128, 20, (700, 900, 1)).clip(0, 255).astype(np.uint8)
            return PIL.Image.fromarray(pixels.repeat(3, axis=2))

    store = unfinished_run(tmp_path / "run", categories=["bolt"])
    page = render_page(store, Photos(Noisy()), PageOptions(Choice(3, 3)))
    assert page.count('class="pick"') == 6
    assert len(page.encode()) < 6 * 35_000 + 60_000
