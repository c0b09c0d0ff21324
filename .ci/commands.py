"""`python3.11 .ci/commands.py [FOLDER [PATTERN]]`: every command of the README and of docs/, from a new environment.

Clones this repository into FOLDER (a temporary one by default) and runs what the documents show, page by page: first
the installation (`pip install .`, with constraints.txt), then `vandkit`, `python` and `pip` commands and the Python
programs, in a folder elsewhere with drawn photos and data sets (stand_ins.py); last the `make` commands, in the clone.
A PATTERN (of `re`) runs again, in the FOLDER of an earlier run, those whose text has it, by the documents and the code
as they are now. `LEFT_OUT` says what is not run and why, `INSTEAD` and `SMALL` what is made smaller; all that is
printed. Ends with 1 if a command failed. No part of the tests: takes long, and disk for several environments.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLATION = ROOT / "docs/index.md"
PAGES = [INSTALLATION, ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {INSTALLATION})]
BLOCK_OR_INLINE = re.compile(r"^```(.*?)^```|`([^`]+)`", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(PYTHONPATH=\S+ )?(\.venv/bin/)?(vandkit|python|pip|make|pipx|uv) ")
MADE_ALONE = re.compile("make (help|docs|demo|tiny)")
"""Commands of two words that are meant to be run where a sentence names them; the others are only spoken of."""
INSIDE = re.compile(r"make|pip |uv |\.venv/|\S*python\S* -m (venv|benchmarks|models|docs)")
"""What is run in the clone."""
DEMO_ADDRESS = "http://127.0.0.1:7860"

LEFT_OUT = {
    r"(make|vandkit) data ": "downloads gigabytes of images",
    r"make weights WEIGHTS|vandkit weights \w|weights --check": "downloads gigabytes of weights",
    r"saa_official|openai_vitl14_336|dinov[23]_vit|experiment=|course=|april_gan/9": "needs weights not shipped",
    r"format=(mvtec_ad2|kaputt2|csig)": "takes runs on that challenge's photos",
    r"make test": "the tests themselves",
    r"make tiny": "trains for hours",
    r"transformers>=5": "a later release than constraints.txt allows; `.ci/ends newest` installs it",
    r"camera:0": "needs a camera",
    r"ray://": "needs a cluster",
    r"s3://": "needs a bucket",
    r"0\.0\.0\.0": "opens this machine to its network",
    r"benchmarks\.(export|saa_parts)": "large networks, for hours",
    r"benchmarks\.(many_photos|predict_killed)": "thousands of photos; need psutil, which is for development",
    r"^pipx ": "`uv tool install .` by another installer",
    r"gradio_client": "asked of the page while `vandkit demo` runs",
}
"""Commands and programs that are not run, as patterns, and why."""
INSTEAD = {
    "python -m venv": f"{sys.executable} -m venv",
    "trials=20": "trials=3",
    "--rounds 5": "--rounds 1",
    "/data/": "{work}/data/",
    "ROOT=folder": "ROOT={work}/data/mvtec",
    "data.root=folder": "data.root={work}/data/mvtec",
    "FOLDER": "outputs/predict/latest",
    "predict one product=...": "predict photos product=bracket.safetensors",
    "product=file add=folder": "product=bracket.safetensors add=more_good_parts",
    "vandkit[": ".[",
    "vandkit COMMAND": "vandkit few-shot",
}
"""Words of commands, and what is run in their place."""
DRAWN = "data.test_normal=4 data.test_per_kind=1 categories=[marble,plaster]"
FEW = "models=[clip_adapter,patchcore,musc] shots=[0,2] seeds=[0]"
SMALL = {"zero-shot": DRAWN, "few-shot": DRAWN, "sweep": DRAWN, "compare": FEW}
"""What is added to a command, to tracks where they run on the drawn data."""


@dataclass
class Shown:
    """A command or a Python program, and the page that shows it."""

    page: str
    text: str
    program: bool = False

    @property
    def left_out(self) -> str | None:
        """Why it is not run; None if it is."""
        return next((why for what, why in LEFT_OUT.items() if re.search(what, self.text)), None)

    def for_here(self, work: Path) -> str:
        """The command with the paths of this machine, on few images."""
        text = self.text
        for words, instead in INSTEAD.items():
            text = text.replace(words, instead.format(work=work))
        name = re.search(r"\b(?:make|vandkit) ([\w-]+)", text)
        more = SMALL.get(name[1], "") if name and "--help" not in text else ""
        if not more or (more == DRAWN and re.search(r"data=|DATA=", text)):
            return text
        if not text.startswith("make"):
            return f"{text} {more}"
        return text.replace('ARGS="', f'ARGS="{more} ') if "ARGS=" in text else f'{text} ARGS="{more}"'


def shown_by(page: Path) -> Iterator[Shown]:
    """What a page shows, in its order: whole blocks, and in sentences those commands that have words of their own."""
    for block, inline in BLOCK_OR_INLINE.findall(page.read_text(encoding="utf-8")):
        kind, _, content = block.partition("\n")
        if kind == "python":
            yield Shown(page.name, content, program=True)
        for line in [" ".join(inline.split())] if inline else [] if kind else content.splitlines():
            text = line.split(" #")[0].strip()
            if COMMAND.match(text) and (not inline or len(text.split()) > 2 or MADE_ALONE.fullmatch(text)):
                yield Shown(page.name, text)


def write_files(folder: Path) -> None:
    """The files whose content a page shows (`title="mine/darkest.py"`)."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, content in re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, re.DOTALL):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")


class Machine:
    """The clone, its environment, and a folder elsewhere."""

    def __init__(self, folder: Path) -> None:
        """Clone this repository, make the folders."""
        self.clone, self.work, self.logs = folder / "clone", folder / "elsewhere", folder / "logs"
        self.work.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        if not self.clone.is_dir():
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.environment = inherited | {
            "PATH": f"{self.clone}/.venv/bin:{folder}/bin:{os.environ['PATH']}",
            "PIP_CONSTRAINT": f"{self.clone}/constraints.txt",
            "UV_TOOL_DIR": f"{folder}/tools",
            "UV_TOOL_BIN_DIR": f"{folder}/bin",
        }
        self.failed: list[str] = []
        self.left_out: dict[str, str] = {}
        self.done: set[str] = set()

    def show(self, shown: Shown) -> None:
        """Run what a page shows, once, and print how it ended."""
        if why := shown.left_out:
            self.left_out.setdefault(shown.text.splitlines()[0], why)
        elif shown.program:
            self.run(shown.page, f"PYTHONPATH=bracket python - <<'PROGRAM'\n{shown.text}\nPROGRAM")
        else:
            self.run(shown.page, shown.for_here(self.work))

    def run(self, page: str, command: str) -> None:
        """Run a command of bash, unless it was run before and prepares nothing for the next."""
        if command in self.done and page != "prepared":  # a later run has become the latest
            return
        self.done.add(command)
        began, log = time.monotonic(), self.logs / f"{len(self.done):03}.txt"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=self.clone if INSIDE.match(command) else self.work, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            code = self.visit(process, command) if re.match(r"(vandkit|make) demo", command) else process.wait()
        told = log.read_text(encoding="utf-8")
        found_something = " doctor" in command and "Traceback" not in told  # what the doctor's 1 says
        fine = code == 0 or found_something
        first = command.splitlines()[0] if "PROGRAM" not in command else f"python program: {command.splitlines()[1]}"
        line = f"{'ok' if fine else f'FAILED ({code})':11} {time.monotonic() - began:5.0f} s  {page}: {first}"
        print(line, flush=True)
        if not fine:
            self.failed.append(f"{line}\n    {log}: {told[-600:]}")

    def visit(self, process: subprocess.Popen, command: str) -> int:
        """Wait for the demo's page, run the program that asks it, end it."""
        port = re.search(r"port=(\d+)", command)
        address = f"http://127.0.0.1:{port[1]}" if port else DEMO_ADDRESS
        try:
            while process.poll() is None:
                time.sleep(1)
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                except OSError:
                    continue
                asks = [] if port else [each for each in shown_by(ROOT / "docs/demo.md") if each.program]
                programs = [["python", "-c", each.text] for each in asks]
                return max((subprocess.call(each, cwd=self.work, env=self.environment) for each in programs), default=0)
            return process.returncode or 1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def main() -> int:
    """Run everything; 1 if anything failed."""
    folder = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="vandkit-commands-")).resolve()
    pattern = "".join(sys.argv[2:])
    machine = Machine(folder)
    print(f"in {folder}, logs in {machine.logs}", flush=True)
    shown = [each for page in PAGES for each in shown_by(page)]
    by_make = [each for each in shown if each.text.startswith("make ")]
    if pattern:
        shown, by_make = ([each for each in some if re.search(pattern, each.text)] for some in (shown, by_make))
        machine.run("again", f"git -C {machine.clone} pull --quiet {ROOT} HEAD")
        machine.run("again", f"cd {machine.clone} && .venv/bin/pip install --quiet --no-deps .")
    else:
        for each in shown_by(INSTALLATION):
            if INSIDE.match(each.text) and each not in by_make:
                machine.show(each)
        machine.run("stand_ins.py", f"python {machine.clone}/.ci/stand_ins.py {machine.work}")
        for name in ("photos", "good_parts"):
            (machine.clone / name).symlink_to(machine.work / name)
    write_files(machine.work)
    for each in shown:
        if each.text.startswith("vandkit submit"):  # of a model that bounds its maps
            machine.run("prepared", f"vandkit few-shot {DRAWN}")
        if each.text.startswith("vandkit compare-runs"):
            machine.run("prepared", f"vandkit zero-shot out=outputs/run_a {DRAWN}")
            machine.run("prepared", f"vandkit zero-shot out=outputs/run_b model=musc {DRAWN}")
        if each not in by_make:
            machine.show(each)
    for each in by_make:
        machine.show(each)
        if each.text.startswith("make sweep"):  # the two runs that are compared after it
            machine.run("prepared", f'make zero-shot OUT=outputs/run_a ARGS="{DRAWN}"')
            machine.run("prepared", f'make zero-shot OUT=outputs/run_b MODEL=musc ARGS="{DRAWN}"')
    print("\nnot run:", *(f"  {text}  ({why})" for text, why in machine.left_out.items()), sep="\n")
    print(f"\n{len(machine.done)} run, {len(machine.left_out)} not run, {len(machine.failed)} failed")
    print(*machine.failed, sep="\n")
    return int(bool(machine.failed))


if __name__ == "__main__":
    sys.exit(main())
