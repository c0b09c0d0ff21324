"""`vandkit`: one command for everything. Each of its doors is a module that `python -m` runs as well.

`key=value` is Hydra's, all of it; `--key value` is the same, and paths may come as they are:

    vandkit predict photos --references good_parts --category "steel bracket"
"""

import gc
import os
import re
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from models.errors import hint
from models.interrupted import end_at_once

HELP = ("-h", "--help")
HYDRA = {
    "-m": 0, "--multirun": 0, "-r": 0, "--run": 0, "--resolve": 0, "--hydra-help": 0, "--version": 0,
    "-sc": 1, "--shell-completion": 1, "-c": 1, "--cfg": 1, "-p": 1, "--package": 1, "-cp": 1, "--config-path": 1,
    "-cn": 1, "--config-name": 1, "-cd": 1, "--config-dir": 1, "-i": 1, "--info": 1, "--experimental-rerun": 1,
}  # fmt: skip
"""Hydra's own flags, and how many words each takes."""
SETTING = re.compile(r"[~+]*[\w@/.]+=")
NUMBER = re.compile(r"-[\d.]")
KEY = re.compile(r"--?[^\W\d]{2}")
"""`--key`, and `-key` of those who type that."""


@dataclass(frozen=True)
class Door:
    """A command: the module that does it, what it is for, and the settings that words without a key are values of."""

    module: str
    what: str
    config: str | None
    """Its file of conf/; None where the module reads its words itself."""
    takes: tuple[str, ...] = ()
    """Keys of the words that stand alone, in order; the last one takes all that are left."""
    aliases: dict[str, str] = field(default_factory=dict)


DATA = {"root": "data.root"}
SWEPT = DATA | {"sweeper=optuna": "hydra/sweeper=maximise", "trials": "hydra.sweeper.n_trials"}
WORDS = {"prompt": "prompts.defects"}
DOORS = {
    "zero-shot": Door(
        "tracks.zero_shot", "run the zero-shot track: no image of the product is used", "zero_shot", aliases=SWEPT
    ),
    "few-shot": Door(
        "tracks.few_shot", "run the few-shot track: K normal images of each category", "few_shot", aliases=SWEPT
    ),
    "predict": Door("tracks.predict", "judge your own photos: defect or not, and where", "predict", ("images",), WORDS),
    "fit": Door(
        "tracks.fit", "learn good parts once, into a file that `predict` starts from", "fit", ("references",), WORDS
    ),
    "export": Door(
        "tracks.export",
        "write a model that judges without torch: ONNX, OpenVINO, one file to run it",
        "export",
        ("product",),
        WORDS,
    ),
    "demo": Door("tracks.demo", "open a page in the browser: drop photos, see heat maps and verdicts", "demo"),
    "sweep": Door("tracks.sweep", "run every combination of settings, one table", "sweep", aliases=SWEPT),
    "compare": Door(
        "tracks.compare", "run many models on the same images, the papers' figures beside them", "compare", aliases=DATA
    ),
    "compare-runs": Door(
        "tracks.compare_runs", "say which of two finished runs is better, beyond noise", "compare_runs", ("a", "b")
    ),
    "reproduce": Door(
        "tracks.reproduce", "print a published table, ours and the difference", "reproduce", ("table",), DATA
    ),
    "score": Door("tracks.score", "score a finished run again from its stored maps", "score", ("run",)),
    "report": Door("tracks.report", "write a web page of one file about a finished run", "report", ("run",)),
    "submit": Door("tracks.submit", "export a run as a challenge submission, zipped and checked", "submit", ("run",)),
    "train": Door("train.adapter", "train adapters on one data set for use on another", "train", aliases=DATA),
    "data": Door("tracks.data", "download, check and unpack a public data set", "data", ("data",), DATA),
    "new-model": Door(
        "tracks.new_model", "begin a model of your own: class, configuration, test", "new_model", ("name",)
    ),
    "weights": Door("models.weights", "fetch and check weight files; without a name, list them", None),
    "doctor": Door("tracks.doctor", "find what is wrong with data, weights or this machine", "doctor", ("data",), DATA),
    "completion": Door("tracks.command.completion", "print completions for bash, zsh or fish", None),
}


def main() -> None:
    """What the console command `vandkit` runs."""
    signal.signal(signal.SIGINT, end_at_once)  # until the door has taken over
    words = sys.argv[1:]
    if not words or words[0] in (*HELP, "help"):
        show(overview())
    elif words[0] in ("-V", "--version"):
        print(f"vandkit {version('vandkit')}")
    elif words[0] not in DOORS:
        print(f"error: expected one of {', '.join(DOORS)}, got {words[0]!r}{hint(words[0], DOORS)}", file=sys.stderr)
        sys.exit(2)
    else:
        enter(words[0], words[1:])


def enter(name: str, words: Sequence[str]) -> None:
    """Run one of the commands with its words."""
    door = DOORS[name]
    if door.config and set(words) & set(HELP):
        from tracks.command.explained import explained  # reads YAML; the overview need not wait for that

        show(explained(name, door.what, door.config, door.takes, door.aliases, words))
        return
    sys.argv[1:] = as_settings(words, door) if door.config else list(words)
    if door.config:
        gc.disable()  # while modules are imported, which make next to no garbage; `run_main` enables it
    runpy.run_module(door.module, run_name="__main__", alter_sys=True)


def show(text: str) -> None:
    """Print what may be read in part only, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def overview() -> str:
    """The commands, a line each."""
    width = max(map(len, DOORS))
    lines = [f"  {name:{width}}  {door.what}" for name, door in DOORS.items()]
    return "\n".join(
        [
            "Find and outline defects in pictures of things never trained on.", "",
            "usage: vandkit COMMAND [words] [key=value or --key value ...]", "", *lines, "",
            "vandkit COMMAND --help explains the settings of a command.",
        ]
    )  # fmt: skip


def as_settings(words: Sequence[str], door: Door) -> list[str]:
    """The words of a command as Hydra wants them: flags of Hydra's own, and key=value."""
    settings: list[str] = []
    alone: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        flag = word.split("=")[0]
        if flag in HYDRA:
            settings += [word, *(left.pop(0) for _ in range(HYDRA[flag] if flag == word else 0) if left)]
        elif KEY.match(word):
            key, equals, value = word.lstrip("-").partition("=")
            if not equals:
                value = left.pop(0) if left and _is_value(left[0]) else "true"
            settings.append(_plain(key.replace("-", "_"), value, door))
        elif SETTING.match(word):
            key, _, value = word.partition("=")
            settings.append(f"{door.aliases.get(key, key)}={value}")
        else:
            alone.append(word)
    for number, key in enumerate(door.takes):
        last = number == len(door.takes) - 1
        if values := alone[number:] if last else alone[number : number + 1]:
            settings.append(_plain(key, values[0] if len(values) == 1 else _list(values), door))
    settings = [door.aliases.get(each, each) for each in settings]
    return settings if door.takes else settings + alone  # those that nothing takes are refused by name


def _is_value(word: str) -> bool:
    """Whether the word after `--key` is its value rather than the next setting."""
    return not (SETTING.match(word) or word.startswith("-")) or bool(NUMBER.match(word))


def _plain(key: str, value: str, door: Door) -> str:
    """A value that was typed as it is: text is put in quotes, so that commas, brackets and blanks in it survive."""
    from tracks.command.text_settings import LIST_KEYS, TEXT_KEYS, in_quotes  # imports Hydra

    key = door.aliases.get(key, key)
    if value.startswith("["):
        return f"{key}={value}"
    if key.rpartition(".")[2] in LIST_KEYS:  # with commas between its words
        return f"{key}={_list([word.strip() for word in value.split(',')])}"
    return f"{key}={in_quotes(value) if key.rpartition('.')[2] in TEXT_KEYS else value}"


def _list(values: Sequence[str]) -> str:
    from tracks.command.text_settings import in_quotes

    return f"[{','.join(map(in_quotes, values))}]"


if __name__ == "__main__":
    main()
