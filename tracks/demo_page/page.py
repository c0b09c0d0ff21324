"""The page of `vandkit demo`, in Gradio; what it does stands in `judging`."""

import html
import math
import os
import tempfile
from typing import Any

import gradio as gr

from models.errors import ModelInputError
from tracks.datasets.formats import endings
from tracks.decide.verdict import Verdict
from tracks.demo_page.judging import (
    Judged,
    forget,
    gallery,
    judge,
    judged_again,
    listed,
    picture,
    summary,
)
from tracks.demo_page.loaded import Models, choices
from tracks.demo_page.uploads import Limits
from tracks.errors import TrackInputError

HOUR = 3600
REFUSED_BY_GRADIO = 10
"""Times the limit: a smaller file is refused by name, a larger one together with those dropped beside it."""
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
#summary div { font-size: 1.15rem; font-weight: 600; }
#rule, #chosen { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
#chosen { font-size: 1rem; color: var(--body-text-color); }
#notes > div > div { border-left: 4px solid var(--error-icon-color, #dc2626); padding: .4rem .8rem;
  overflow-wrap: anywhere; background: var(--background-fill-secondary); border-radius: 4px; margin: .3rem 0; }
#gallery .grid-wrap, #gallery .gallery-container { height: auto; min-height: 0; max-height: none; overflow: visible; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) !important; height: auto; }
#gallery .thumbnail-item { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; }
#gallery .thumbnail-item img { aspect-ratio: 1; height: auto; background: #000; }
#gallery .caption-label { position: static; width: 100%; max-width: none; margin: 0; padding: .2rem .4rem; border: 0;
  border-radius: 0; overflow: hidden; text-overflow: ellipsis; white-space: pre; text-align: left; line-height: 1.35;
  opacity: 1 !important; }
"""
INTRODUCTION = """# Find defects
Drop photos of one product, and of good parts if you have some: each photo gets a heat map, a score and a verdict."""


class Page:
    """The components, and what happens to them."""

    def __init__(self, models: Models, chosen: tuple[str, str], limits: Limits, false_alarm_rate: float):
        self.models, self.limits, self.rate = models, limits, false_alarm_rate
        with gr.Blocks(title="vandkit demo", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as self.blocks:
            gr.Markdown(INTRODUCTION)
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    self._inputs(chosen)
                with gr.Column(scale=2, min_width=320):
                    self._results()
            self._events()

    def _inputs(self, chosen: tuple[str, str]) -> None:
        names, weights = (sorted({*known, name}) for known, name in zip(choices(), chosen, strict=True))
        self.photos = gr.File(label="Photos to judge", file_count="multiple", height=170, elem_id="photos")
        self.good = gr.File(label="Good parts (optional)", file_count="multiple", height=170, elem_id="good")
        self.category = gr.Textbox(label="What the photos show", placeholder="steel bracket", max_lines=1)
        self.defects = gr.Textbox(label="Kinds of defect, with commas", placeholder="scratch, dent", max_lines=1)
        with gr.Row():
            self.model = gr.Dropdown(names, value=chosen[0], label="Model", min_width=140)
            self.weights = gr.Dropdown(weights, value=chosen[1], label="Weights", min_width=140)
        self.button = gr.Button("Judge", variant="primary", elem_id="judge")
        gr.Markdown(
            f"At most {self.limits.photos} photos and {self.limits.references} good parts, "
            f"{self.limits.megabytes:g} MB each: {endings()}. "
            "They stay on the machine that this page comes from, for two hours at most."
        )

    def _results(self) -> None:
        self.judged = gr.State(None, time_to_live=HOUR, delete_callback=forget)
        self.name = gr.State("")
        self.notes = gr.HTML(elem_id="notes", visible=False)
        with gr.Column(visible=False) as self.results:
            self.summary = gr.HTML(elem_id="summary")
            self.slider = gr.Slider(0, 1, 0.5, step=0.001, label="Threshold", elem_id="threshold", buttons=[])
            self.rule = gr.HTML(elem_id="rule")
            with gr.Row():
                self.reset = gr.Button("Threshold as fitted", min_width=140)
                self.list = gr.DownloadButton("Save the list (CSV)", min_width=140, elem_id="list")
            self.gallery = gr.Gallery(
                label="Photos, highest score first", show_label=False, allow_preview=False, height="auto",
                object_fit="contain", elem_id="gallery", buttons=[],
            )  # fmt: skip
            self.chosen = gr.HTML(elem_id="chosen")
            with gr.Row():
                self.heat = gr.Image(label="With heat", min_width=280, buttons=["fullscreen"], elem_id="heat")
                self.plain = gr.Image(label="Photo", min_width=280, buttons=["fullscreen"], elem_id="plain")

    def _events(self) -> None:
        given = [self.photos, self.good, self.category, self.defects, self.model, self.weights]
        large = [self.name, self.chosen, self.heat, self.plain]
        shown = [self.summary, self.rule, self.gallery, self.list, *large]
        first = [self.judged, self.notes, self.results, self.slider, *shown]
        gr.on(
            [self.button.click, self.category.submit, self.defects.submit], self._judge, [self.judged, *given], first,
            scroll_to_output=True, concurrency_id="model", concurrency_limit=1, api_visibility="private",
        )  # fmt: skip
        moved = {"show_progress": "hidden", "api_visibility": "private"}
        self.slider.input(
            self._move,
            [self.judged, self.slider, self.name],
            [self.judged, *shown],
            trigger_mode="always_last",
            **moved,
        )
        self.reset.click(self._back, [self.judged, self.name], [self.judged, self.slider, *shown], **moved)
        self.gallery.select(self._choose, [self.judged], large, **moved)
        asked, answer = gr.Button(visible=False), gr.JSON(visible=False)
        asked.click(
            self._answer, given, answer, api_name="judge", concurrency_id="model",
            api_description="Judge photos: threshold, verdicts with scores (highest first) and notes on refused files.",
        )  # fmt: skip

    def _run(self, given: tuple[Any, ...], progress: gr.Progress | None = None) -> Judged:
        def step(share: float, what: str) -> None:
            if progress is not None:
                progress(share, desc=what)

        return judge(self.models, *given, limits=self.limits, false_alarm_rate=self.rate, progress=step)

    def _judge(
        self, before: Judged | None, photos: Any, good: Any, category: str, defects: str, model: str, weights: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how Gradio hands it out)
    ) -> list[Any]:  # fmt: skip
        forget(before)
        try:
            judged = self._run((photos, good, category, defects, model, weights), progress)
        except (TrackInputError, ModelInputError) as error:
            return [None, _notes([str(error)]), gr.update(visible=False), *[gr.skip()] * 9]
        return [judged, _notes(judged.notes), gr.update(visible=True), _slider(judged), *self._shown(judged, "")]

    def _answer(self, photos: Any, good: Any, category: str, defects: str, model: str, weights: str) -> dict[str, Any]:
        try:
            judged = self._run((photos, good, category, defects, model, weights))
        except (TrackInputError, ModelInputError) as error:
            raise gr.Error(str(error)) from error
        forget(judged)
        rows = [{"file": each.name, "score": each.score, "verdict": each.verdict} for each in judged.verdicts]
        rule = {"value": judged.threshold.value, "source": judged.threshold.source}
        return {"threshold": rule, "photos": rows, "notes": list(judged.notes)}

    def _move(self, judged: Judged | None, value: float, name: str) -> list[Any]:
        if judged is None:
            return [gr.skip()] * 9
        judged = judged_again(judged, value)
        return [judged, *self._shown(judged, name)]

    def _back(self, judged: Judged | None, name: str) -> list[Any]:
        if judged is None:
            return [gr.skip()] * 10
        judged = judged.fitted()
        return [judged, _slider(judged), *self._shown(judged, name)]

    def _shown(self, judged: Judged, name: str) -> list[Any]:
        rule = [f"Threshold {judged.threshold.value:.4f}: {judged.threshold.source}", *judged.threshold.remarks]
        chosen = next((each for each in judged.drawn if each.name == name), judged.drawn[0])
        return [
            f"<div>{summary(judged)}</div>", f"<div>{html.escape('. '.join(rule))}</div>", gallery(judged),
            str(listed(judged)), *_large(judged, chosen),
        ]  # fmt: skip

    def _choose(self, judged: Judged | None, event: gr.SelectData) -> list[Any]:
        return [gr.skip()] * 4 if judged is None else _large(judged, judged.drawn[event.index])


def _large(judged: Judged, verdict: Verdict) -> list[Any]:
    note = f" ({verdict.note})" if verdict.note else ""
    said = html.escape(f"{verdict.verdict} {verdict.score:.4f}{note} · {verdict.name}")
    files = [str(picture(judged, verdict, heat=heat)) for heat in (True, False)]
    return [verdict.name, f"<div>{said}</div>", *files]


def _notes(notes: Any) -> Any:
    return gr.update(value="".join(f"<div>{html.escape(note)}</div>" for note in notes), visible=bool(notes))


def _slider(judged: Judged) -> Any:
    scores = [judged.threshold.value, *(each.score for each in judged.drawn if each.score is not None)]
    low, high = min(scores), max(scores)
    digits = 3 - math.floor(math.log10(high - low or abs(high) or 1.0))
    step = 10.0**-digits
    low, high = (math.floor(low / step) - 1) * step, (math.ceil(high / step) + 1) * step
    low, high, value = (round(each, max(0, digits)) for each in (low, high, judged.threshold.value))
    return gr.update(minimum=low, maximum=high, value=value, step=step, precision=max(0, digits))


def serve(
    models: Models,
    chosen: tuple[str, str],
    limits: Limits,
    false_alarm_rate: float,
    host: str,
    port: int,
    browser: bool,
) -> None:
    """Serve the page until interrupted.

    Raises:
        TrackInputError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="vandkit-demo-") as folder:  # uploads and pictures go with the server
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = Page(models, chosen, limits, false_alarm_rate).blocks
        try:
            blocks.launch(
                server_name=host, server_port=port, inbrowser=browser, quiet=True, prevent_thread_lock=True,
                max_file_size=int(REFUSED_BY_GRADIO * limits.megabytes * 1e6), css=CSS,
                theme=gr.themes.Default(font=FONTS, font_mono=FONTS), footer_links=["api"], share=False,
            )  # fmt: skip
        except OSError as error:
            raise TrackInputError(
                f"expected port {port} to be free, got: {error}; choose another with port=8000"
            ) from error
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
        blocks.block_thread()
