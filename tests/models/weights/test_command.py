"""`python -m models.weights`: groups, states, digests trusted on first use, caches of our own and of Hugging Face."""

import ast
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from models.errors import ModelInputError
from models.weights import __main__ as command
from models.weights import cache, catalogue
from models.weights.digests import TRUSTED, forget, trusted
from models.weights.download import DownloadError, Failure
from tests.support.loopback_host import Host
from tracks.command.config import TrackConfig  # noqa: F401  (registers the schema)
from tracks.command.variants import variants

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
NET, WORDS = random.Random(0).randbytes(4000), b"[PAD]\n[UNK]\n" * 20
HUB = "https://huggingface.co/timm/net.tag/resolve/main/model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with two files, and a catalogue of three entries, one of them without a digest."""
    for variable in ("VANDKIT_WEIGHTS", "VANDKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VANDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("models.weights.download.TRIES", 1)
    host = Host()
    monkeypatch.setenv("HF_ENDPOINT", host.address)  # which has nothing of the hub
    host.files.update({"/net.pt": NET, "/words.txt": WORDS})
    fields = {"licence": "MIT", "source": "there", "groups": ["official"]}
    known = {"size": len(NET), "sha256": hashlib.sha256(NET).hexdigest()}
    entries = {
        "net": {"what": "a net", "url": f"{host.address}/net.pt", **known, **fields},
        "words": {"what": "words", "url": f"{host.address}/words.txt", **fields},
        "hub": {"what": "on the hub", "url": HUB, "mirrors": [f"{host.address}/net.pt"], **known, **fields},
        "ours": {"what": "ships", "file": "ours.safetensors", "licence": "MIT", "source": "here"},
    }
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue.yaml")
    yield host
    host.close()


def plant_on_hub(tmp_path, content, revision="main"):
    folder = tmp_path / "hub/models--timm--net.tag"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(COMMIT)
    file = folder / "snapshots" / COMMIT / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_a_group_is_fetched_and_a_second_time_nothing_is(host, tmp_path, capsys):
    plant_on_hub(tmp_path, NET)
    assert command.main(["official"]) == 0
    assert {path.name for path in (tmp_path / "cache/weights").iterdir()} == {
        "net.pt", "words.txt", TRUSTED, "verified.json"
    }  # fmt: skip
    asked = len(host.requests)
    assert command.main(["net", "official"]) == 0
    assert len(host.requests) == asked == 2
    assert f"net: {tmp_path}/cache/weights/net.pt  [MIT, there]" in capsys.readouterr().out


def test_what_fails_is_named_and_the_rest_is_fetched(host, tmp_path, capsys):
    host.files.pop("/net.pt")
    plant_on_hub(tmp_path, NET)
    assert command.main(["official"]) == 2
    output = capsys.readouterr()
    assert "error: net: expected an address of net" in output.err
    assert "not found" in output.err
    assert "words: " in output.out
    assert catalogue.weights_path("words").read_bytes() == WORDS


def test_a_digest_is_trusted_on_first_use_and_enforced_later(host, tmp_path):
    path = catalogue.fetch("words")
    first = trusted("words")
    assert first is not None
    assert (first.size, first.sha256) == (len(WORDS), hashlib.sha256(WORDS).hexdigest())
    path.write_bytes(WORDS.upper().replace(b"PAD", b"BAD"))
    with pytest.raises(ModelInputError, match=f"digest {first.sha256}, got .* delete .*words.txt and fetch it"):
        catalogue.weights_path("words")
    path.unlink()
    host.files["/words.txt"] = WORDS[::-1]
    with pytest.raises(DownloadError) as caught:
        catalogue.fetch("words")
    assert caught.value.failure is Failure.WRONG_CONTENT
    assert forget("words")
    assert catalogue.fetch("words").read_bytes() == WORDS[::-1]
    assert not forget("net")


def test_a_record_of_trusted_digests_that_is_broken_is_an_error(host):
    (cache.weights_folder() / TRUSTED).parent.mkdir(parents=True)
    (cache.weights_folder() / TRUSTED).write_text('{"words": {"size": 1}}')
    with pytest.raises(ModelInputError, match=r"learnt_digests\.json .*lacks size or sha256; delete it"):
        catalogue.fetch("words")


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_hugging_faces_own_cache_is_used_where_the_file_is_there(host, tmp_path, revision, monkeypatch):
    if revision != "main":
        text = catalogue.CATALOGUE.read_text().replace("resolve/main", f"resolve/{revision}")
        catalogue.CATALOGUE.write_text(text)
    file = plant_on_hub(tmp_path, NET, revision)
    monkeypatch.setenv("VANDKIT_OFFLINE", "1")
    assert catalogue.weights_path("hub") == catalogue.fetch("hub") == file
    assert not host.requests


def test_a_damaged_copy_in_hugging_faces_cache_is_passed_over(host, tmp_path, caplog):
    plant_on_hub(tmp_path, NET[::-1])
    with pytest.raises(ModelInputError, match="found no file"):
        catalogue.weights_path("hub")
    assert "passed over" in caplog.text
    assert catalogue.fetch("hub").read_bytes() == NET


def test_only_files_of_models_are_looked_for_in_hugging_faces_cache(host, tmp_path):
    file = plant_on_hub(tmp_path, NET)
    assert cache.hugging_face_copy(HUB) == file
    for address in (HUB + "x", "https://huggingface.co/spaces/a/b/resolve/main/f", "https://example.org/net.pt"):
        assert cache.hugging_face_copy(address) is None


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [("linux", {"XDG_CACHE_HOME": "/x"}, "/x/vandkit"), ("linux", {}, "~/.cache/vandkit"),
     ("darwin", {}, "~/Library/Caches/vandkit"), ("win32", {"LOCALAPPDATA": "/l"}, "/l/vandkit"),
     ("linux", {"VANDKIT_CACHE": "~/mine"}, "~/mine")],
)  # fmt: skip
def test_the_cache_is_where_the_system_keeps_caches_or_where_the_user_says(platform, variables, folder, monkeypatch):
    for variable in ("VANDKIT_CACHE", "VANDKIT_WEIGHTS", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(cache.sys, "platform", platform)
    assert cache.cache_folder() == Path(folder).expanduser()
    assert cache.weights_folder() == Path(folder).expanduser() / "weights"
    monkeypatch.setenv("VANDKIT_WEIGHTS", "/w")
    assert cache.weights_folder() == Path("/w")


def test_the_listing_says_how_each_file_stands(host, tmp_path, capsys):
    catalogue.fetch("net")
    catalogue.fetch("words")
    (tmp_path / "cache/weights/words.txt").write_bytes(b"broken")
    assert command.main([]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "  here " not in lines["ours"]
    assert " here  " in lines["net"]
    assert "damaged" in lines["words"]
    assert "not here" in lines["hub"]
    assert command.main(["--check", "net"]) == 0
    assert command.main(["--check", "official"]) == 2
    errors = capsys.readouterr().err
    assert "error: words: damaged: expected" in errors
    assert "error: hub: not here" in errors


def test_an_unknown_name_lists_groups_and_files(host, capsys):
    assert command.main(["ours"]) == 2
    assert "got 'ours'; there are the groups official and the files hub, net, words" in capsys.readouterr().err
    assert command.main(["wodrs"]) == 2
    assert "got 'wodrs'; did you mean words?; there are" in capsys.readouterr().err


def test_room_for_all_that_is_missing_is_asked_first(host, monkeypatch, capsys):
    from models import disk

    free = disk.SPARE_BYTES + 2 * len(NET) - 1
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert command.main(["official"]) == 2
    assert "GB free in" in capsys.readouterr().err
    assert not host.requests


def test_offline_the_remedy_names_the_place(host, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE=1, which forbids downloads.*net\.pt by hand"):
        catalogue.fetch("net")


@pytest.mark.parametrize(("value", "forbidden"), [("1", "True"), ("0", "False")])
def test_being_offline_holds_for_what_other_packages_fetch(value, forbidden):
    program = "import models; from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    environment = {**os.environ, "VANDKIT_OFFLINE": value, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{forbidden}\n", done.stderr


def test_the_official_group_is_what_the_published_set_ups_use_and_nothing_else():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = [name for group, name, _ in variants() if group == "experiment"]
        composed = [compose("zero_shot", [f"experiment={name}", "data.root=/nowhere"]).model for name in names]
    texts = "".join(OmegaConf.to_yaml(model, resolve=True) for model in composed)
    entries = catalogue.catalogue().values()
    used = {entry.name for entry in entries if entry.url and re.search(rf": {entry.name}$", texts, re.MULTILINE)}
    encoders = {"dinov2_vits14", "dinov2_vitg14_reg", "dinov3_vith16_plus"}  # up to 4.5 GB each: fetched by a run
    assert used - encoders == {entry.name for entry in entries if "official" in entry.groups}
    assert {"sam_vit_h", "openai_vitl14_336", "april_gan_visa", "clipseg_rd64_refined"} <= used
    assert not {"sam_vit_b", "sam_vit_l", "bert_base_uncased"} & used


def test_files_of_groups_have_safe_addresses_and_a_digest_or_are_trusted_on_first_use():
    entries = [entry for entry in catalogue.catalogue().values() if entry.groups]
    for entry in entries:
        assert all(address.startswith("https://") for address in entry.addresses)
        first = entry.name == "clipseg_rd64_refined"
        assert first or entry.git_blob or (entry.size and len(str(entry.sha256)) == 64)


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "models.weights", "--list", "april_gan"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": "", "VANDKIT_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "openai_vitl14_336", "april_gan_mvtec", "april_gan_visa"
    ]  # fmt: skip


def test_no_file_is_unpickled():
    """Every torch.load of the project reads weights only, and nothing else reads pickles."""
    calls = 0
    for package in ("models", "tracks", "train", "eval"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                if called == "torch.load":
                    calls += 1
                    assert keywords.get("weights_only") == "True", path
                assert called not in ("pickle.load", "pickle.loads", "joblib.load", "np.lib.format.read_array"), path
                assert keywords.get("allow_pickle", "False") == "False", path
    assert calls >= 3


def test_the_record_of_trusted_digests_is_plain_json(host):
    catalogue.fetch("words")
    assert json.loads((cache.weights_folder() / TRUSTED).read_text()) == {
        "words": {"size": len(WORDS), "sha256": hashlib.sha256(WORDS).hexdigest()}
    }
