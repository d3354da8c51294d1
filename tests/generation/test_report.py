"""The report page: true figures, marked edits, and nothing that a text or a file name could make it do."""

import base64
import errno
import hashlib
import io
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import GenerationError
from vigc.generation import correct_dataset, generate_dataset, write_report
from vigc.generation.report.charts import histogram
from vigc.generation.report.statistics import Figures
from vigc.generation.row_schema import GeneratedRows
from vigc.jobs import Configuration, Plan, ledger
from vigc.processing import row_id
from vigc.processing.rows import to_messages
from vigc.processing.word_diff import word_differences

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)> & \"quotes\" 'too' {{ 7 * 7 }} <!-- ]]>"


def picture(colour, size=(300, 200)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(index, kind="detail", draft="A red cat sleeps. It is small.", answer="A grey cat sleeps. It is small.", **more):
    image = picture((index % 250, 40, 90))
    trace = [
        {"sentence": answer.split(". ")[0] + ".", "changed": draft != answer, "logprob": -0.25, "stop": "unit"},
        {"sentence": answer.split(". ")[-1], "changed": False, "logprob": -0.125, "stop": "eos"},
        {"sentence": "", "changed": False, "logprob": None, "stop": "eos"},
    ]
    return {
        "id": row_id(image, kind, "c", 0),
        "image": {"bytes": image, "path": None},
        "image_id": f"picture-{index:04d}",
        "type": kind,
        "question_index": 0,
        "question": "What is there?",
        "draft": draft,
        "answer": answer,
        "messages": to_messages("What is there?", answer),
        "trace": trace,
        "scores": {"draft_logprob": -0.5, "answer_logprob": -0.25, "visual_dependency": None},
        **more,
    }


def make(folder, rows, types=("detail", "complex"), records=(), correct=True, max_rows=1500):
    configuration = {"model": "vigc-7b", "types": list(types), "correct": correct, "seed": 7, "dtype": "bfloat16"}
    plan = Plan("generate", Configuration(configuration), {}, "photos", "cc0-1.0", {}, config_hash="0123456789abcdef")
    ledger.write_plan(folder, plan)
    for kind in types:
        chosen = [item for item in rows if item["type"] == kind]
        if chosen:
            ledger.write_rows(folder, kind, 0, chosen, GeneratedRows().arrow)
    if records:
        ledger.write_quarantine(folder, 0, records)
    return write_report(folder, max_rows=max_rows).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Every element with its attributes, and the text of each kind of element."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def plain(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_figures_are_those_of_the_rows(tmp_path):
    rows = [row(index) for index in range(3)]
    rows += [row(index, "complex", answer="A red cat sleeps. It is small.") for index in range(4)]
    html = make(tmp_path, rows)
    words = plain(html)
    assert "Pictures 4" in words and "Rows 7" in words
    assert "Answers edited 43&thinsp;% 3 of 7" in words
    assert "Sentences edited 21&thinsp;% 3 of 14" in words, "a step that wrote nothing is no sentence"
    assert "detail 3 100&thinsp;% 7.0 → 7.0 −0.50 → −0.25" in words
    assert "vigc-7b" in words and "photos" in words and "0123456789abcdef" in words and "cc0-1.0" in words
    page = Page(html)
    assert not page.open
    assert len(page.all("img")) == 4, "a picture is shown once, with all its rows"
    shown = [attributes for attributes in page.all("section") if attributes["class"] == "row"]
    assert [attributes["data-changed"] for attributes in shown] == ["1", "0"] * 3 + ["0"]


def test_edits_are_marked_word_by_word(tmp_path):
    page = Page(make(tmp_path, [row(0)]))
    assert page.texts["del"] == ["red"] and page.texts["ins"] == ["grey"]
    assert [attributes.get("class") for attributes in page.all("li")][-2:] == ["edited", None]
    kept = Page(make(tmp_path / "kept", [row(0, answer="A red cat sleeps.\nIt is small.")]))
    assert "del" not in kept.texts and "ins" not in kept.texts


def test_a_step_that_left_the_draft_s_rest_out_counts_as_an_edit(tmp_path):
    trace = [
        {"sentence": "A red cat sleeps.", "changed": False, "logprob": -0.25, "stop": "unit"},
        {"sentence": "", "changed": True, "logprob": None, "stop": "eos"},
    ]
    html = make(tmp_path, [row(0, answer="A red cat sleeps.", trace=trace)])
    assert "Sentences edited 50&thinsp;% 1 of 2" in plain(html) and "2 steps, 1 edited" in plain(html)
    assert "(the rest of the draft was left out)" in html
    assert "sentence 2: 1 of 1 (100.0%)" in html


@pytest.mark.parametrize(
    ("draft", "answer", "gone", "new"),
    [
        ("A red cat.", "A grey cat.", ["red"], ["grey"]),
        ("Two dogs run.", "Two dogs run, and a cat.", [], [", and a cat"]),
        ("It's 2.5 m.", "It's 3.5 m.", ["2"], ["3"]),
        ("One.\n\nTwo.", "One. Two.", [], []),
        ("", "Something new.", [], ["Something new."]),
        ("Ein Hund läuft.", "Ein Hund schläft.", ["läuft"], ["schläft"]),
    ],
)
def test_word_differences(draft, answer, gone, new):
    before, after = word_differences(draft, answer)
    assert "".join(text for text, _ in before) == draft
    assert "".join(text for text, _ in after) == answer
    assert [text for text, marked in before if marked] == gone
    assert [text for text, marked in after if marked] == new


def test_texts_and_names_are_inert(tmp_path):
    records = [
        {"kind": "image", "path": f"{HOSTILE}\udcff", "reason": HOSTILE},
        {"kind": "text", "path": "p", "image_id": HOSTILE, "type": "detail", "reason": HOSTILE, "text": HOSTILE},
    ]
    hostile = row(0, draft=HOSTILE, answer=f"{HOSTILE} grey", question=HOSTILE, image_id=HOSTILE)
    html = make(tmp_path / HOSTILE.replace("/", "_"), [hostile], records=records)
    page = Page(html)
    assert not page.open
    assert len(page.all("script")) == 1 and len(page.all("img")) == 1 and len(page.all("style")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [1 for _, attributes in page.elements if "style" in attributes], "the policy would ignore it"
    assert HOSTILE in "".join(page.texts["h2"])
    assert "{{ 7 * 7 }}" in html and "{{ 7 * 7 }}".replace("7 * 7", "49") not in html


def test_only_the_packaged_script_and_style_may_take_effect(tmp_path):
    html = make(tmp_path, [row(0)])
    page = Page(html)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_nothing_is_asked_of_elsewhere(tmp_path):
    page = Page(make(tmp_path, [row(0)]))
    places = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert places and all(place.startswith(("data:image/", "#")) for place in places)
    assert not page.all("link")
    assert "url(" not in "".join(page.texts["style"]) and "@import" not in "".join(page.texts["style"])


def test_of_many_rows_a_part_is_shown_pictures_with_all_their_types(tmp_path):
    rows = [row(index, kind) for kind in ("detail", "complex") for index in range(90)]
    html = make(tmp_path, rows, max_rows=40)
    page = Page(html)
    shown = [attributes for attributes in page.all("section") if attributes["class"] == "row"]
    assert len(shown) == 40 and len(page.all("img")) == 20
    assert sum(attributes["data-type"] == "detail" for attributes in shown) == 20
    assert "40 of 180 rows are on this page" in html and "Rows 180" in plain(html)
    first = write_report(tmp_path, max_rows=40).read_text(encoding="utf-8")
    assert first == html, "the same rows give the same page"


def test_thumbnails_are_small_and_tiny_pictures_stay_sharp(tmp_path):
    large = row(0) | {"image": {"bytes": picture("red", (3000, 1500)), "path": None}}
    tiny = row(1) | {"image": {"bytes": picture("red", (40, 30)), "path": None}}
    broken = row(2) | {"image": {"bytes": b"not a picture", "path": None}}
    html = make(tmp_path, [large, tiny, broken])
    page = Page(html)
    assert [(image["width"], image["height"]) for image in page.all("img")] == [("512", "256"), ("40", "30")]
    assert [image.get("class") for image in page.all("img")] == [None, "small"]
    assert "This picture cannot be shown" in html


def test_drafts_alone_are_not_called_corrected(tmp_path):
    rows = [row(0, answer="A red cat sleeps. It is small.", trace=[])]
    html = make(tmp_path, rows, correct=False)
    words = plain(html)
    assert "not corrected" in words and "Answers edited" not in words
    assert {button["data-filter"] for button in Page(html).all("button")} == {"type"}


def test_rows_without_a_picture_or_scores_stand_alone(tmp_path):
    bare = [row(index) | {"image": None, "image_id": None, "scores": None, "id": f"{index}"} for index in range(2)]
    page = Page(make(tmp_path, bare))
    assert len(page.all("article")) == 2 and not page.all("img")
    assert "This row has no picture." in "".join(page.texts["p"])


def test_rows_carry_what_they_are_filtered_by(tmp_path):
    scores = {"draft_logprob": -1.0, "answer_logprob": -0.25, "visual_dependency": float("nan")}
    page = Page(make(tmp_path, [row(0, scores=scores), row(1, scores=scores | {"draft_logprob": None})]))
    first, second = (attributes for attributes in page.all("section") if attributes["class"] == "row")
    assert (first["data-logprob"], first["data-gain"]) == ("-0.2500", "0.7500")
    assert "data-gain" not in second and "data-visual" not in first, "a score that is none is not filtered by"


def test_what_was_set_aside_is_counted_by_reason(tmp_path):
    records = [{"kind": "image", "path": f"{n}.jpg", "reason": f"has {n} bytes: get it again"} for n in range(30)]
    records.append({"kind": "image", "path": "x.jpg", "reason": "is empty: get it again"})
    page = Page(make(tmp_path, [row(0)], records=records))
    counts = [text for text in page.texts["b"] if text in ("30", "1")]
    assert counts == ["30", "1"], "reasons that differ in a number are one"
    codes = [text for text in page.texts["code"] if text.endswith(".jpg")]
    assert len(codes) == 21 and "10 more are in the folder quarantine." in "".join(page.texts["p"])


def test_copies_of_a_broken_file_are_counted_as_everywhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "pictures" / "good.png")
    for name in ("a", "b", "c"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(b"no picture")
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"], "dedup": True}
    summary = generate_dataset(tmp_path / "pictures", tmp_path / "out", **job)
    words = plain((tmp_path / "out" / ledger.REPORT).read_text())
    assert summary.set_aside == 3 and "Set aside 3 3 files, 0 texts" in words and "and 2 exact copies of it" in words
    card = (tmp_path / "out" / ledger.CARD).read_text()
    assert "Files skipped because they could not be read: 3" in card and re.search(r"\| *3 *\|", card)


def test_ever_new_reasons_take_bounded_room(tmp_path, monkeypatch):
    monkeypatch.setattr("vigc.generation.report.statistics._MOST_REASONS", 5)
    records = [{"kind": "image", "path": "x", "reason": f"is {'a' * n}"} for n in range(40)]
    page = Page(make(tmp_path, [row(0)], records=records))
    assert [text for text in page.texts["b"] if text in ("1", "35")] == ["35", *["1"] * 5]
    assert "15 more are in the folder quarantine." in "".join(page.texts["p"])


def test_a_correction_s_page_says_whose_the_drafts_are(tmp_path):
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A thing."}]
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    (tmp_path / "theirs.json").write_text(json.dumps([{"id": 1, "image": "a.png", "conversations": talk}]))
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor()}
    correct_dataset(tmp_path / "theirs.json", tmp_path / "out", **job)
    words = plain((tmp_path / "out" / ledger.REPORT).read_text())
    assert "Corrected dataset" in words and "A model wrote these answers and nobody" in words
    assert "Questions and drafts from theirs , answered again by scripted , sentence by sentence" in words


def test_a_full_disk_is_said_and_not_thrown(tmp_path, monkeypatch):
    make(tmp_path, [row(0)])
    before = (tmp_path / ledger.REPORT).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 75 and "vigc report: No space left" in result.stderr
    assert (tmp_path / ledger.REPORT).read_bytes() == before


# Charts


def figures(rows):
    counted = Figures()
    for item in rows:
        counted.add(item)
    return counted


def test_figures_of_types_add_up():
    one, two = ([row(index, answer=f"A cat. {'It is. ' * index}") for index in part] for part in (range(3), range(5)))
    assert figures(one) + figures(two) == figures(one + two)


def test_charts_are_true():
    rows = [row(0, question="What is it?"), row(1, question="What's that?"), row(2, question="Where is <it>?")]
    charts = {chart.title: chart.svg for chart in figures(rows).charts(corrected=True)}
    assert list(charts) == ["Answer length", "Edits by sentence", "Log-probability"], "no empty chart"
    assert "sentence 1: 3 of 3 (100.0%)" in charts["Edits by sentence"]
    assert "sentence 2: 0 of 3 (0.0%)" in charts["Edits by sentence"]
    assert "answer, 7 to 8: 100.0%" in charts["Answer length"] and "line-draft" in charts["Answer length"]
    assert "answer, −0.26 to −0.24: 100.0%" in charts["Log-probability"]
    burst = figures(rows).questions_chart()
    titles = re.findall("<title>(.*?)</title>", burst)
    assert titles[:3] == [
        "what …: 1 of 3 (33.3%)",
        "what is …: 1 of 3 (33.3%)",
        "what is it …: 1 of 3 (33.3%)",
    ]
    assert figures(rows).first_words() == [("what", 1), ("what's", 1), ("where", 1)]
    only = figures(rows).charts(corrected=False)
    assert [chart.title for chart in only] == ["Answer length", "Log-probability"]
    assert not any("line-draft" in chart.svg for chart in only)


def test_histograms_hold_every_value():
    values = Counter({-100.0: 1, **{-index / 100: 1 for index in range(400)}})
    svg = histogram({"answer": values}, step=0.01, label="x")
    shares = [float(share) for share in re.findall(r": ([\d.]+)%</title>", svg)]
    assert len(shares) <= 26 and abs(sum(shares) - 100) < 2, "an outlier counts for the outermost bar"
    assert histogram({"answer": Counter()}, step=1, label="x") == ""
    one = histogram({"answer": Counter({0.0: 7})}, step=0.01, label="x")
    assert "answer, 0 to 0.01: 100.0%" in one and "nan" not in one


def test_memory_of_first_words_is_bounded(monkeypatch):
    monkeypatch.setattr("vigc.generation.report.statistics._MOST_PHRASES", 10)
    counted = figures([row(0, question=f"word{index} a b") for index in range(50)] + [row(0, question="?! ")])
    assert len(counted.phrases) <= 11 and counted.phrases.total() == 51
    assert counted.questions_chart()


def test_no_rows_at_all_is_a_page_too(tmp_path):
    records = [{"kind": "text", "image_id": "a", "type": "detail", "reason": "no question", "text": ""}]
    html = make(tmp_path, [], records=records)
    assert "Rows 0" in plain(html) and "no question" in html


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(GenerationError, match="is not a dataset of vigc"):
        write_report(tmp_path)
    (tmp_path / "_vigc").mkdir()
    (tmp_path / ledger.PLAN).write_text('{"configuration": ')
    with pytest.raises(GenerationError, match=r"plan\.json' is not valid JSON.*generate the dataset again"):
        write_report(tmp_path)
