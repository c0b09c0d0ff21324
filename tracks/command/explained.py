"""`vandkit COMMAND --help`: every setting with its default and what it is, from the comments of conf/ and the schemas.

Reads text alone, so that help comes at once: neither Hydra nor torch is imported.
"""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tracks.command.variants import CONF, choices, variants

SCHEMAS = (Path(__file__).with_name("config.py"), CONF.parent / "train/adapters/config.py")
"""Their attributes are followed by what they mean."""
KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\n]*?))?(?: +# *(?P<comment>.*))? *$")
ENVIRONMENT = re.compile(r"\$\{(?:words:\$\{)?(?:oc\.env|env_words)[:.](\w+)[^}]*\}*")
MORE = re.compile(r" {12,}# *(.*)")
"""A comment that goes on in the next line."""
NO_SETTINGS = ("defaults", "hydra")
WIDTH = 100


@dataclass(frozen=True)
class Setting:
    """One key, its default as it stands in the file, and what it is in words."""

    key: str
    default: str
    what: str


def explained(
    command: str, what: str, config: str, takes: Sequence[str], aliases: Mapping[str, str], chosen: Sequence[str] = ()
) -> str:
    """The help of a command: usage, groups to choose from, settings; also those of a `model=...` among `chosen`."""
    words = " ".join(f"[{key} ...]" if key == takes[-1] else f"[{key}]" for key in takes)
    usage = f"usage: vandkit {command} {words}{' ' if words else ''}[key=value or --key value ...]"
    lines = [f"{what[0].upper()}{what[1:]}.", "", usage, ""]
    if aliases:
        lines += ["Short forms: " + ", ".join(f"{key} for {long}" for key, long in aliases.items()), ""]
    groups = dict(_groups(config))
    if groups:
        lines.append("Choices (each a file of conf/, or of a folder of your own with --config-dir):")
        for group, default in groups.items():
            lines += _entry(f"{group}={default}", f"one of {', '.join(choices(group))}")
        lines.append("")
    lines.append("Settings:")
    lines += _entries(setting for setting in settings_of(config) if setting.key not in groups)
    picked = groups | dict(word.split("=", 1) for word in chosen if word.split("=", 1)[0] in groups and "=" in word)
    for group in ("model", "data"):
        name = f"{group}/{picked.get(group)}"
        if group in groups and (CONF / f"{name}.yaml").is_file():
            own = settings_of(name)
            if group == "model":
                own = _suited(own, picked["model"], picked.get("weights", ""))
            own = [replace(setting, key=f"{group}.{setting.key}") for setting in own]
            lines += ["", f"Settings of {group}={picked[group]}:", *_entries(own)]
    lines += ["", "Several values for a key, with commas between them, and -m: every combination (Hydra's multirun)."]
    return "\n".join(lines)


def _suited(settings: Sequence[Setting], model: str, weights: str) -> list[Setting]:
    """A model's settings with the defaults that suit the weights (model/preset), the others beside them."""
    presets = {name: content for group, name, content in variants() if group == "model/preset"}
    preset, suited = presets.get(f"{model}_{weights}", {}), []
    for setting in settings:
        if setting.key in preset:
            value = preset[setting.key]
            own = {key: each for key, each in value.items() if key != "_target_"} if isinstance(value, dict) else value
            default = yaml.safe_dump(own, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            what = f"{setting.what} (for weights={weights}; otherwise {setting.default})".strip()
            setting = replace(setting, default=default, what=what)
        suited.append(setting)
    return suited


def settings_of(config: str) -> list[Setting]:
    """The settings of a file of conf/ and of the files that its defaults name, each once; the file's own values win."""
    known: dict[str, Setting] = {}
    documents = _schema_texts()
    for setting in _settings_in(config):
        before = known.get(setting.key)
        words = setting.what or (before.what if before else "") or documents.get(setting.key, "")
        known[setting.key] = Setting(setting.key, setting.default, words)
    return list(known.values())


def _settings_in(config: str) -> Iterator[Setting]:
    path = CONF / f"{config}.yaml"
    for name, place in _bases(config):
        yield from (replace(each, key=place + each.key) for each in _settings_in(name))
    for schema in re.findall(r"^  - (\w+)_schema$", path.read_text(encoding="utf-8"), re.MULTILINE):
        known = _settings_of_schema(f"{schema.title()}Config")
        yield from (setting for setting in known if setting.default != "MISSING")
    parents: list[tuple[int, str]] = []
    last: Setting | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if last and (more := MORE.match(line)):
            last = replace(last, what=f"{last.what} {more[1]}")
            continue
        if last:
            yield last
        last, found = None, KEY.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        parents = [each for each in parents if each[0] < indent]
        keys = [*(name for _, name in parents), found["key"]]
        if not found["value"]:
            parents.append((indent, found["key"]))
        elif keys[0] not in NO_SETTINGS and not found["key"].startswith("_"):
            value = ENVIRONMENT.sub("", found["value"]).strip()
            last = Setting(".".join(keys), value, (found["comment"] or "").strip())
    if last:
        yield last


def _bases(config: str) -> list[tuple[str, str]]:
    """The files of conf/ that one begins with, and the place of their keys within its own ("" or "key.")."""
    path = CONF / f"{config}.yaml"
    names = re.findall(r"^  - ([\w/]+)(?:@(\w+))?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    below = [(str(Path(config).parent / name), f"{place}." if place else "") for name, place in names]
    return [(name, place) for name, place in below if name != "quiet" and (CONF / f"{name}.yaml").is_file()]


def _groups(config: str) -> Iterator[tuple[str, str]]:
    """The groups of conf/ that a command chooses from, with the default choice."""
    for name, _ in _bases(config):
        yield from _groups(name)
    text = (CONF / f"{config}.yaml").read_text(encoding="utf-8")
    for group, default in re.findall(r"^  - (\w+): ([^#\n]+?) *(?:#.*)?$", text, re.MULTILINE):
        if (CONF / group).is_dir():
            yield group, default


def _schema_texts() -> dict[str, str]:
    """What the attributes of the schema classes mean, by name."""
    texts: dict[str, str] = {}
    for name in _schema_classes():
        for setting in _settings_of_schema(name):
            texts.setdefault(setting.key, setting.what)
    return texts


def _schema_classes() -> dict[str, ast.ClassDef]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SCHEMAS]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _settings_of_schema(name: str) -> Iterator[Setting]:
    """The attributes of a schema class and of those it is made from; each is followed by what it means."""
    node = _schema_classes()[name]
    for base in node.bases:
        yield from _settings_of_schema(ast.unparse(base))
    for first, second in itertools.pairwise([*node.body, ast.Pass()]):
        if isinstance(first, ast.AnnAssign) and first.value:
            what = ast.literal_eval(second.value) if isinstance(second, ast.Expr) else ""
            yield Setting(ast.unparse(first.target), _default(first.value), " ".join(what.split()))


def _default(value: ast.expr) -> str:
    """A default as YAML would write it."""
    if isinstance(value, ast.Constant):
        return {"None": "null", "True": "true", "False": "false"}.get(str(value.value), str(value.value))
    text = ast.unparse(value)
    return "[]" if text.endswith("=list)") else text.partition("lambda: ")[2].rstrip(")") or text


def _entries(settings: Iterable[Setting]) -> list[str]:
    return [line for setting in settings for line in _entry(f"{setting.key}={setting.default}", setting.what)]


def _entry(head: str, text: str) -> list[str]:
    body = textwrap.wrap(text, WIDTH - 8, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return [f"  {head}", *body]
